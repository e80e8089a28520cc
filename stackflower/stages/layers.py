"""Layers shared by generators and discriminators."""

from __future__ import annotations

from typing import Literal

import torch
import torch.distributed.nn.functional as dist_functional
import torch.nn.functional as F
from torch import Tensor, nn

from stackflower.errors import ComponentError
from stackflower.utils.distributed import gather, get_rank_and_size

Norm = Literal["batch", "layer", "instance", "none"]
GeneratorNorm = Literal["batch", "layer", "instance", "virtual", "none"]
REFERENCE_BATCH_SIZE = 16  # images in the reference batch of virtual batch normalisation


class BatchNorm2d(nn.BatchNorm2d):
    """Batch normalisation that can compute its statistics over the batch of all processes.

    torch.nn.SyncBatchNorm supports CUDA only; this layer reduces differentiably over any backend. Set by
    `synchronise_batch_norm`.
    """

    synchronised = False

    def forward(self, input: Tensor) -> Tensor:
        """Normalise `(N, C, H, W)`."""
        size = get_rank_and_size()[1] if self.synchronised else 1
        if not self.training or size == 1:
            return super().forward(input)
        values = input.float()
        count = values.numel() // values.shape[1] * size  # every process has the same number of images
        # two passes, because E[x²] − E[x]² suffers from cancellation in float32
        mean = dist_functional.all_reduce(values.sum((0, 2, 3))) / count
        centred = values - mean[:, None, None]
        variance = dist_functional.all_reduce(centred.square().sum((0, 2, 3))) / count
        if self.track_running_stats and self.running_mean is not None and self.running_var is not None:
            assert self.momentum is not None and self.num_batches_tracked is not None
            with torch.no_grad():
                self.num_batches_tracked += 1
                self.running_mean.lerp_(mean, self.momentum)
                self.running_var.lerp_(variance * count / (count - 1), self.momentum)
        scale = self.weight * torch.rsqrt(variance + self.eps)
        return (centred * scale[:, None, None] + self.bias[:, None, None]).to(input.dtype)


def count_doublings(resolution: int) -> int | None:
    """Return how often 4 must be doubled to reach `resolution`; None unless it is a power of two from 16 up."""
    depth = resolution.bit_length() - 3
    return depth if resolution >= 16 and 4 * 2**depth == resolution else None


def require_doublings(resolution: int, name: str) -> int:
    """Return how often 4 must be doubled to reach `resolution`.

    Args:
        resolution: height and width of the images.
        name: subject of the error message, such as "`generator.resolution`".

    Raises:
        ComponentError: the resolution is not a power of two from 16 up.
    """
    depth = count_doublings(resolution)
    if depth is None:
        raise ComponentError(f"{name} is {resolution}, but must be a power of two from 16 up (16, 32, 64, 128, …).")
    return depth


class VirtualBatchNorm2d(nn.Module):
    """Virtual batch normalisation (Salimans et al. 2016, section 3.4).

    The first `REFERENCE_BATCH_SIZE` rows of the input are the reference batch, which is normalised by its own
    statistics. Every other image is normalised by the statistics of the reference batch and itself, so it does not
    depend on the rest of its batch.

    Args:
        channels: channels of the input.
        eps: added to the variance.
    """

    def __init__(self, channels: int, eps: float = 1e-5):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalise `(R + N, C, H, W)`, R being the size of the reference batch."""
        values, rows = x.float(), REFERENCE_BATCH_SIZE
        image_means = values.mean((2, 3))  # (R + N, C)
        image_variances = (values - image_means[..., None, None]).square().mean((2, 3))
        mean = image_means[:rows].mean(0)
        variance = (image_variances[:rows] + (image_means[:rows] - mean).square()).mean(0)
        own_mean, own_variance = image_means[rows:], image_variances[rows:]
        joint_mean = (rows * mean + own_mean) / (rows + 1)
        joint_variance = (
            rows * (variance + (mean - joint_mean).square()) + own_variance + (own_mean - joint_mean).square()
        ) / (rows + 1)
        means = torch.cat([mean.expand(rows, -1), joint_mean])
        variances = torch.cat([variance.expand(rows, -1), joint_variance])
        scale = self.weight * torch.rsqrt(variances + self.eps)
        return ((values - means[..., None, None]) * scale[..., None, None] + self.bias[:, None, None]).to(x.dtype)


class ReferenceBatch(nn.Module):
    """Reference batch of virtual batch normalisation: conditions and noise of images, saved with the network.

    Random until `set` is called with a training batch.

    Args:
        condition_dim: size C of the condition.
        noise_dim: size Z of the noise.
    """

    inputs: Tensor

    def __init__(self, condition_dim: int, noise_dim: int):
        super().__init__()
        self.dims = (condition_dim, noise_dim)
        self.register_buffer("inputs", torch.randn(REFERENCE_BATCH_SIZE, condition_dim + noise_dim))

    def set(self, condition: Tensor, noise: Tensor) -> None:
        """Store the first rows of `condition` `(N, C)` and `noise` `(N, Z)`, repeated if the batch is too small."""
        rows = torch.arange(REFERENCE_BATCH_SIZE, device=condition.device) % len(condition)
        self.inputs.copy_(torch.cat([condition, noise], 1).detach()[rows])

    def prepend(self, condition: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Prepend the reference batch to `condition` `(N, C)` and `noise` `(N, Z)`."""
        reference_condition, reference_noise = self.inputs.split(self.dims, dim=1)
        return (
            torch.cat([reference_condition.to(condition.dtype), condition]),
            torch.cat([reference_noise.to(noise.dtype), noise]),
        )


def build_norm2d(kind: GeneratorNorm, channels: int) -> nn.Module:
    """Build a normalisation layer for `(N, channels, H, W)`."""
    if kind == "virtual":
        return VirtualBatchNorm2d(channels)
    if kind == "batch":
        return BatchNorm2d(channels)
    if kind == "layer":
        return nn.GroupNorm(1, channels)
    if kind == "instance":
        return nn.GroupNorm(channels, channels)
    return nn.Identity()


def synchronise_batch_norm(module: nn.Module, on: bool = True) -> None:
    """Set whether batch statistics in a network are computed over the batch of all processes.

    Args:
        module: network whose batch normalisation and minibatch deviation are set.
        on: compute statistics over all processes rather than over the batch of this process.
    """
    for layer in module.modules():
        if isinstance(layer, (BatchNorm2d, MinibatchDeviation)):
            layer.synchronised = on


class UpsampleConv(nn.Module):
    """Nearest-neighbour upsampling by two and a 3×3 convolution without bias, fused into one transposed convolution.

    Every 2×2 block of the upsampled input holds a single value. The two layers therefore equal a transposed convolution
    of stride 2 with the 4×4 kernel ``K = W ∗ ones(2, 2)``, which needs 16 instead of 36 multiplications per input pixel
    and pair of channels. The weight stays 3×3, as in the paper.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
    """

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, 3, 3))
        nn.init.normal_(self.weight, 0.0, 0.02)

    def forward(self, x: Tensor) -> Tensor:
        """Map `(N, in_channels, H, W)` to `(N, out_channels, 2H, 2W)`."""
        if x.shape[-1] < 8:  # for few pixels, computing the kernel costs more than it saves
            return F.conv2d(F.interpolate(x, scale_factor=2.0, mode="nearest"), self.weight, padding=1)
        kernel = F.pad(self.weight.flip(2, 3).transpose(0, 1), (1, 1, 1, 1))
        kernel = kernel[..., :-1, :] + kernel[..., 1:, :]
        kernel = kernel[..., :-1] + kernel[..., 1:]
        return F.conv_transpose2d(x, kernel, stride=2, padding=1)


class MinibatchDeviation(nn.Module):
    """Minibatch standard deviation, appended to the features as one map (Karras et al. 2018, section 3).

    The map holds the standard deviation within groups of images, averaged over channels and positions. It shows the
    discriminator how much the images of a batch differ, which penalises mode collapse. `synchronise_batch_norm` sets
    whether groups span the batch of all processes.

    Args:
        group: largest size of a group.
    """

    synchronised = False

    def __init__(self, group: int = 8):
        super().__init__()
        self.group = group

    def forward(self, x: Tensor) -> Tensor:
        """Map `(N, C, H, W)` to `(N, C + 1, H, W)`."""
        share, _c, h, w = x.shape
        rank, size = get_rank_and_size() if self.synchronised else (0, 1)
        batch = gather(x.float()) if size > 1 else x.float()
        n = len(batch)
        group = max(number for number in range(1, min(self.group, n) + 1) if n % number == 0)
        members = batch.unflatten(0, (group, n // group))
        variance = (members - members.mean(0)).square().mean(0)  # five times as fast as torch.var
        value = variance.add(1e-8).sqrt().mean((1, 2, 3)).to(x.dtype).repeat(group)[rank * share : (rank + 1) * share]
        return torch.cat([x, value[:, None, None, None].expand(share, 1, h, w)], 1)

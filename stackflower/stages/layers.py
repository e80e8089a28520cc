"""Layers shared by several networks."""

from __future__ import annotations

from typing import Literal

import torch
import torch.distributed.nn.functional as dist_functional
import torch.nn.functional as F
from torch import Tensor, nn

from stackflower.errors import ComponentError
from stackflower.utils.distributed import gathered, world

Norm = Literal["batch", "layer", "instance", "none"]
GeneratorNorm = Literal["batch", "layer", "instance", "virtual", "none"]
REFERENCE_BATCH_SIZE = 16  # images in the reference batch of virtual batch normalisation


class BatchNorm2d(nn.BatchNorm2d):
    """Batch normalisation whose statistics, with `synchronised`, are those of the whole batch over all processes.

    torch.nn.SyncBatchNorm does the same on CUDA alone; this one reduces over any backend, differentiably.
    """

    synchronised = False

    def forward(self, input: Tensor) -> Tensor:
        size = world()[1] if self.synchronised else 1
        if not self.training or size == 1:
            return super().forward(input)
        values = input.float()
        count = values.numel() // values.shape[1] * size  # processes hold equal shares of a batch
        # two passes: E[x²] − E[x]² would cancel in float32
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
    """How often 4 is doubled to give `resolution`; None unless that is a power of two from 16 up."""
    depth = resolution.bit_length() - 3
    return depth if resolution >= 16 and 4 * 2**depth == resolution else None


def require_doublings(resolution: int, name: str) -> int:
    """The same; ComponentError, a sentence about `name`, for another resolution."""
    depth = count_doublings(resolution)
    if depth is None:
        raise ComponentError(f"{name} = {resolution}: allowed are 16, 32, 64, 128, 256, …")
    return depth


class VirtualBatchNorm2d(nn.Module):
    """Virtual batch normalisation (Salimans et al. 2016, section 3.4) of inputs whose first `REFERENCE` rows are a fixed batch.

    Those are normalised by their own statistics, every other image by the statistics of the fixed batch and itself, so that no
    image depends on the rest of its batch.
    """

    def __init__(self, channels: int, eps: float = 1e-5):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        values, rows = x.float(), REFERENCE_BATCH_SIZE
        each_mean = values.mean((2, 3))  # (R + N, C)
        each_variance = (values - each_mean[..., None, None]).square().mean((2, 3))
        mean = each_mean[:rows].mean(0)
        variance = (each_variance[:rows] + (each_mean[:rows] - mean).square()).mean(0)
        own_mean, own_variance = each_mean[rows:], each_variance[rows:]
        joint_mean = (rows * mean + own_mean) / (rows + 1)
        joint_variance = (
            rows * (variance + (mean - joint_mean).square()) + own_variance + (own_mean - joint_mean).square()
        ) / (rows + 1)
        means = torch.cat([mean.expand(rows, -1), joint_mean])
        variances = torch.cat([variance.expand(rows, -1), joint_variance])
        scale = self.weight * torch.rsqrt(variances + self.eps)
        return ((values - means[..., None, None]) * scale[..., None, None] + self.bias[:, None, None]).to(x.dtype)


class ReferenceBatch(nn.Module):
    """The fixed batch of virtual batch normalisation: the conditions and noises of `REFERENCE` images, saved with the network.

    They are random until `set` is called with a training batch.
    """

    inputs: Tensor

    def __init__(self, condition_dim: int, noise_dim: int):
        super().__init__()
        self.dims = (condition_dim, noise_dim)
        self.register_buffer("inputs", torch.randn(REFERENCE_BATCH_SIZE, condition_dim + noise_dim))

    def set(self, condition: Tensor, noise: Tensor) -> None:
        """Keep the first rows of `condition` (N, C) and `noise` (N, Z), repeated where there are fewer than `REFERENCE`."""
        rows = torch.arange(REFERENCE_BATCH_SIZE, device=condition.device) % len(condition)
        self.inputs.copy_(torch.cat([condition, noise], 1).detach()[rows])

    def prepend(self, condition: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """(REFERENCE + N, C) and (REFERENCE + N, Z): the fixed batch, then the given one."""
        reference_condition, reference_noise = self.inputs.split(self.dims, dim=1)
        return (
            torch.cat([reference_condition.to(condition.dtype), condition]),
            torch.cat([reference_noise.to(noise.dtype), noise]),
        )


def build_norm2d(kind: GeneratorNorm, channels: int) -> nn.Module:
    """A normalisation of (N, channels, H, W) by name."""
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
    """Compute every batch statistic in `module` over all processes (or, with `on` false, over its own share of the batch)."""
    for layer in module.modules():
        if isinstance(layer, (BatchNorm2d, MinibatchDeviation)):
            layer.synchronised = on


class UpsampleConv(nn.Module):
    """Nearest-neighbour upsampling by two, then a 3×3 convolution without bias, as one transposed convolution.

    Every 2×2 block of the upsampled input holds one value, so the two together are a stride-2 transposed convolution with the
    4×4 kernel ``K = W ∗ ones(2, 2)``: the same function with 16 instead of 36 multiplications for each input pixel and pair of
    channels. The weight keeps the 3×3 form, as in the paper.
    """

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, 3, 3))
        nn.init.normal_(self.weight, 0.0, 0.02)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-1] < 8:  # too few pixels: folding the weight costs more than it saves
            return F.conv2d(F.interpolate(x, scale_factor=2.0, mode="nearest"), self.weight, padding=1)
        kernel = F.pad(self.weight.flip(2, 3).transpose(0, 1), (1, 1, 1, 1))
        kernel = kernel[..., :-1, :] + kernel[..., 1:, :]
        kernel = kernel[..., :-1] + kernel[..., 1:]
        return F.conv_transpose2d(x, kernel, stride=2, padding=1)


class MinibatchDeviation(nn.Module):
    """Appends one map: the standard deviation within groups of images, averaged (Karras et al. 2018, section 3).

    It shows the discriminator how much the images of a batch differ, so that mode collapse is penalised. With `synchronised`,
    the batch is that of all processes.
    """

    synchronised = False

    def __init__(self, group: int = 8):
        super().__init__()
        self.group = group

    def forward(self, x: Tensor) -> Tensor:
        share, _c, h, w = x.shape
        rank, size = world() if self.synchronised else (0, 1)
        batch = gathered(x.float()) if size > 1 else x.float()
        n = len(batch)
        group = max(number for number in range(1, min(self.group, n) + 1) if n % number == 0)
        members = batch.unflatten(0, (group, n // group))
        variance = (members - members.mean(0)).square().mean(0)  # torch.var does the same at a fifth of the speed
        value = variance.add(1e-8).sqrt().mean((1, 2, 3)).to(x.dtype).repeat(group)[rank * share : (rank + 1) * share]
        return torch.cat([x, value[:, None, None, None].expand(share, 1, h, w)], 1)

"""StackGAN-v2's generator (Zhang et al. 2018, StackGAN++, section 4): one tree for several resolutions."""

from __future__ import annotations

import itertools
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stackflower.options import Count, Natural, Weight
from stackflower.registry import register
from stackflower.stages.base import Generator, initialise
from stackflower.stages.gated_blocks import GatedResidualBlock, build_gated_upsampling, list_scales
from stackflower.stages.layers import Norm, build_norm2d


def compute_colour_consistency(
    small: Tensor, large: Tensor, mean_weight: float = 1.0, covariance_weight: float = 5.0
) -> Tensor:
    """Compute the colour consistency of two resolutions of the same images (eq. 6): λ₁‖μ − μ'‖² + λ₂‖Σ − Σ'‖².

    μ and Σ are mean and covariance of an image's pixels.

    Args:
        small: images `(N, 3, r, r)` in `[-1, 1]`.
        large: images `(N, 3, R, R)` in `[-1, 1]`.
        mean_weight: λ₁.
        covariance_weight: λ₂.

    Returns:
        The mean over images, a float32 scalar.
    """

    def moments(images: Tensor) -> tuple[Tensor, Tensor]:
        pixels = images.float().flatten(2)  # (N, 3, R·R)
        mean = pixels.mean(2)
        centred = pixels - mean[..., None]
        return mean, torch.bmm(centred, centred.transpose(1, 2)) / pixels.shape[2]

    (mean, covariance), (large_mean, large_covariance) = moments(small), moments(large)
    return (
        mean_weight * (mean - large_mean).square().sum(1)
        + covariance_weight * (covariance - large_covariance).square().sum((1, 2))
    ).mean()


class Branch(nn.Module):
    """Branch of the tree, from features and condition to features of twice the resolution (F_i, eq. 3).

    Args:
        channels: channels of the input.
        out_channels: channels of the output.
        condition_dim: size C of the condition.
        blocks: residual blocks.
        norm: normalisation after each convolution.
    """

    def __init__(self, channels: int, out_channels: int, condition_dim: int, blocks: int, norm: Norm):
        super().__init__()
        self.join = nn.Sequential(
            nn.Conv2d(channels + condition_dim, 2 * channels, 3, padding=1, bias=norm == "none"),
            build_norm2d(norm, 2 * channels),
            nn.GLU(1),
        )
        self.residual = nn.Sequential(*(GatedResidualBlock(channels, norm) for _ in range(blocks)))
        self.up = build_gated_upsampling(channels, out_channels, norm)

    def forward(self, features: Tensor, condition: Tensor) -> Tensor:
        """Map features `(N, channels, H, W)` to `(N, out_channels, 2H, 2W)`, given the condition `(N, C)`."""
        condition_map = condition.to(features.dtype)[:, :, None, None].expand(-1, -1, *features.shape[2:])
        return self.up(self.residual(self.join(torch.cat([features, condition_map], 1))))


@register("generator", "tree")
class TreeGenerator(Generator):
    """StackGAN-v2's generator (Zhang et al. 2018, eqs. 2 to 4): images of several resolutions from one trunk.

    Condition and noise are projected to 4×4 and upsampled to the smallest resolution. One branch per doubling follows,
    which also takes the condition. Every resolution has its own discriminator, and a loss keeps their colours
    consistent.

    Args:
        resolution: height and width of the largest images.
        scales: number of resolutions, each half of the next; 3 in the paper (64, 128, 256).
        channels: width at the smallest resolution, halved by each branch; 64 in the authors' release.
        noise_dim: size of z.
        noise: distribution of z: standard normal, or uniform on [-1, 1].
        blocks: residual blocks per branch; 2 in the release.
        norm: normalisation after each convolution.
        colour_weight: weight α of the colour consistency (eq. 7); 50 in the paper, which finds it most important
            without text.
    """

    def __init__(
        self,
        *,
        condition_dim: int,
        resolution: Count = 256,
        scales: Count = 3,
        channels: Count = 64,
        noise_dim: Count = 100,
        noise: Literal["normal", "uniform"] = "normal",
        blocks: Natural = 2,
        norm: Norm = "batch",
        colour_weight: Weight = 50.0,
    ):
        super().__init__()
        self.resolutions, depth = list_scales(resolution, scales, 1, "each resolution")
        self.noise_dim, self.noise = noise_dim, noise
        self.weights = {"colour": colour_weight} if colour_weight and scales > 1 else {}
        self.wide = channels * 2**depth
        self.dense = nn.Sequential(nn.Linear(condition_dim + noise_dim, self.wide * 16 * 2, bias=False))
        self.norm = build_norm2d(norm, self.wide * 2)
        self.trunk = nn.Sequential(
            *(
                build_gated_upsampling(self.wide // 2**level, self.wide // 2 ** (level + 1), norm)
                for level in range(depth)
            )
        )
        widths = [max(channels // 2**scale, 4) for scale in range(scales)]
        self.branches = nn.ModuleList(
            Branch(wide, narrow, condition_dim, blocks, norm) for wide, narrow in itertools.pairwise(widths)
        )
        self.to_image = nn.ModuleList(nn.Conv2d(width, 3, 3, padding=1, bias=False) for width in widths)
        initialise(self)

    def generate(self, condition: Tensor, noise: Tensor) -> tuple[Tensor, ...]:
        x = self.dense(torch.cat([condition, noise], 1)).unflatten(1, (2 * self.wide, 4, 4))
        features = self.trunk(F.glu(self.norm(x.contiguous(memory_format=torch.channels_last)), 1))
        images = [torch.tanh(self.to_image[0](features))]
        for branch, to_image in zip(self.branches, self.to_image[1:], strict=True):
            features = branch(features, condition)
            images.append(torch.tanh(to_image(features)))
        return tuple(images)

    def terms(self, images: tuple[Tensor, ...], image: Tensor | None = None) -> dict[str, Tensor]:
        if not self.weights:
            return {}
        # as in the release, the smaller image is the target of the larger
        losses = [compute_colour_consistency(small.detach(), large) for small, large in itertools.pairwise(images)]
        return {"colour": torch.stack(losses).sum()}

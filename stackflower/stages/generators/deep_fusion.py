"""DF-GAN's generator (Tao et al. 2022)."""

from __future__ import annotations

import itertools
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stackflower.options import Count
from stackflower.registry import register
from stackflower.stages.base import Generator
from stackflower.stages.layers import require_doublings


class Affine(nn.Module):
    """Channel-wise scale and shift, predicted from text and noise (section 3.4, eq. 3); initialised to the identity.

    Args:
        channels: channels of the features.
        inputs: size of text and noise together.
        hidden: width of the two predicting networks.
    """

    def __init__(self, channels: int, inputs: int, hidden: int):
        super().__init__()
        self.hidden = nn.Sequential(nn.Linear(inputs, 2 * hidden), nn.ReLU(inplace=True))
        self.scale, self.shift = nn.Linear(hidden, channels), nn.Linear(hidden, channels)
        for layer, value in ((self.scale, 1.0), (self.shift, 0.0)):
            nn.init.zeros_(layer.weight)
            nn.init.constant_(layer.bias, value)

    def forward(self, x: Tensor, text: Tensor) -> Tensor:
        """Scale and shift features `(N, C, H, W)`, given text and noise `(N, inputs)`."""
        for_scale, for_shift = self.hidden(text).chunk(2, dim=1)
        return x * self.scale(for_scale)[..., None, None] + self.shift(for_shift)[..., None, None]


class FusionBlock(nn.Module):
    """Residual block of two 3×3 convolutions, each preceded by two affine layers with leaky ReLUs (figure 4).

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        inputs: size of text and noise together.
    """

    def __init__(self, in_channels: int, out_channels: int, inputs: int):
        super().__init__()
        hidden = min(256, 4 * out_channels)
        self.affine = nn.ModuleList(
            Affine(width, inputs, hidden) for width in (in_channels, in_channels, out_channels, out_channels)
        )
        self.first = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.second = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.gain = nn.Parameter(torch.zeros(()))
        self.shortcut = nn.Conv2d(in_channels, out_channels, 1) if in_channels != out_channels else nn.Identity()

    def forward(self, x: Tensor, text: Tensor) -> Tensor:
        """Map features `(N, in_channels, H, W)` to `(N, out_channels, H, W)`, given text and noise `(N, inputs)`."""
        h = x
        for position, affine in enumerate(self.affine):
            h = F.leaky_relu(affine(h, text), 0.2)
            if position % 2:
                h = (self.first if position == 1 else self.second)(h)
        return self.shortcut(x) + self.gain.to(h.dtype) * h


@register("generator", "deep-fusion")
class DeepFusionGenerator(Generator):
    """DF-GAN's generator (Tao et al. 2022): upsampling and a fusion block per doubling, conditioned on text and noise.

    The noise alone is projected to 4×4; text and noise condition every block.

    Args:
        resolution: height and width of the image, a power of two from 16 up; 256 in the paper.
        channels: width nf of the last block; doubles with every halving of the resolution, up to 8-fold; 32 in the
            authors' release.
        noise_dim: size of z.
        noise: distribution of z: standard normal, or uniform on [-1, 1].
    """

    def __init__(
        self,
        *,
        condition_dim: int,
        resolution: Count = 64,
        channels: Count = 32,
        noise_dim: Count = 100,
        noise: Literal["normal", "uniform"] = "normal",
    ):
        super().__init__()
        depth = require_doublings(resolution, "`generator.resolution`")
        self.resolutions = (resolution,)
        self.noise_dim, self.noise = noise_dim, noise
        widths = [channels * min(2 ** (depth - level), 8) for level in range(depth + 1)]
        self.wide = widths[0]
        self.dense = nn.Linear(noise_dim, self.wide * 16)
        self.blocks = nn.ModuleList(
            FusionBlock(wide, narrow, condition_dim + noise_dim) for wide, narrow in itertools.pairwise(widths)
        )
        self.to_image = nn.Sequential(nn.LeakyReLU(0.2), nn.Conv2d(widths[-1], 3, 3, padding=1))

    def generate(self, condition: Tensor, noise: Tensor) -> tuple[Tensor, ...]:
        text = torch.cat([condition, noise], 1)
        x = self.dense(noise).unflatten(1, (self.wide, 4, 4)).contiguous(memory_format=torch.channels_last)
        for block in self.blocks:
            x = block(F.interpolate(x, scale_factor=2.0, mode="nearest"), text)
        return (torch.tanh(self.to_image(x)),)

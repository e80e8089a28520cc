"""FastGAN's generator with skip-layer excitation (Liu et al. 2021), conditioned on text."""

from __future__ import annotations

import itertools
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stackflower.options import Count
from stackflower.registry import register
from stackflower.stages.base import Generator, initialise
from stackflower.stages.layers import Norm, UpsampleConv, build_norm2d, require_doublings

# width relative to `channels` by height of the map, as in the release; from 256 px on it halves with every doubling
WIDTH_FACTORS = {4: 16, 8: 8, 16: 4, 32: 2, 64: 2, 128: 1}
TWO_CONVOLUTION_SIZES = (8, 32, 128)  # heights at which a block has a second convolution
EXCITATION_RATIO = 16  # height of an excited map relative to the map that excites it


class GatedUpBlock(nn.Module):
    """Upsampling by two and a gated 3×3 convolution, optionally followed by a second one (the release's UpBlockComp).

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        again: add the second convolution.
        norm: normalisation after each convolution.
        style_dim: size of the style that scales and shifts the channels; 0: no style.
    """

    def __init__(self, in_channels: int, out_channels: int, again: bool, norm: Norm, style_dim: int):
        super().__init__()
        self.up = nn.Sequential(UpsampleConv(in_channels, 2 * out_channels), build_norm2d(norm, 2 * out_channels))
        self.style = nn.Linear(style_dim, 4 * out_channels) if style_dim else None
        self.again = (
            nn.Sequential(
                nn.Conv2d(out_channels, 2 * out_channels, 3, padding=1, bias=norm == "none"),
                build_norm2d(norm, 2 * out_channels),
                nn.GLU(1),
            )
            if again
            else nn.Identity()
        )

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        """Map `(N, in_channels, H, W)` to `(N, out_channels, 2H, 2W)`, given the style `(N, style_dim)`."""
        x = self.up(x)
        if self.style is not None:
            scale, shift = self.style(style)[:, :, None, None].chunk(2, 1)
            x = x * (1 + scale) + shift
        return self.again(F.glu(x, 1))


class Excitation(nn.Module):
    """Skip-layer excitation (eq. 1): channels of a fine map, scaled by a gate computed from a coarse map.

    Args:
        coarse: channels of the coarse map.
        fine: channels of the fine map.
    """

    def __init__(self, coarse: int, fine: int):
        super().__init__()
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(4), nn.Conv2d(coarse, fine, 4), nn.SiLU(), nn.Conv2d(fine, fine, 1), nn.Sigmoid()
        )

    def forward(self, coarse: Tensor, fine: Tensor) -> Tensor:
        """Scale the channels of `fine` `(N, C, H, W)` by the gate."""
        return fine * self.gate(coarse)


@register("generator", "fastgan")
class FastGenerator(Generator):
    """FastGAN's generator with skip-layer excitation (Liu et al. 2021, section 3.1).

    Gated upsampling blocks, with skip-layer excitation from 4×4 to 64×64, 8×8 to 128×128 and 16×16 to 256×256, which
    carries decisions of the coarse maps, such as the style, to the fine ones. The noise that the release adds to every
    pixel is left out, so that an image depends on condition and noise alone; so is its spectral normalisation.

    Args:
        resolution: height and width of the image, a power of two from 16 up.
        channels: width at 128 px, 16 times as much at 4×4; 64 in the release.
        noise_dim: size of z; 256 in the release.
        noise: distribution of z: standard normal, or uniform on [-1, 1].
        norm: normalisation after each convolution.
        style: let condition and noise also scale and shift the channels of every block, as in `stage1`; not in the
            paper.
    """

    def __init__(
        self,
        *,
        condition_dim: int,
        resolution: Count = 256,
        channels: Count = 64,
        noise_dim: Count = 256,
        noise: Literal["normal", "uniform"] = "normal",
        norm: Norm = "batch",
        style: bool = False,
    ):
        super().__init__()
        depth = require_doublings(resolution, "`generator.resolution`")
        self.resolutions = (resolution,)
        self.noise_dim, self.noise = noise_dim, noise
        sides = [4 * 2**level for level in range(depth + 1)]
        widths = [max(4, round(channels * WIDTH_FACTORS.get(side, 128 / side))) for side in sides]
        inputs = condition_dim + noise_dim
        self.wide = widths[0]
        self.dense = nn.Linear(inputs, 2 * self.wide * 16, bias=False)
        self.first = build_norm2d(norm, 2 * self.wide)
        self.blocks = nn.ModuleList(
            GatedUpBlock(wide, narrow, side in TWO_CONVOLUTION_SIZES, norm, inputs if style else 0)
            for side, (wide, narrow) in zip(sides[1:], itertools.pairwise(widths), strict=True)
        )
        self.excitations = nn.ModuleDict(
            {
                str(side): Excitation(widths[level - 4], widths[level])
                for level, side in enumerate(sides)
                if side // EXCITATION_RATIO in sides
            }
        )
        self.to_image = nn.Conv2d(widths[-1], 3, 3, padding=1)
        initialise(self)

    def generate(self, condition: Tensor, noise: Tensor) -> tuple[Tensor, ...]:
        inputs = torch.cat([condition, noise], 1)
        x = self.dense(inputs).unflatten(1, (2 * self.wide, 4, 4)).contiguous(memory_format=torch.channels_last)
        maps = {4: F.glu(self.first(x), 1)}
        for block in self.blocks:
            side = 2 * max(maps)
            x = block(maps[side // 2], inputs)
            if str(side) in self.excitations:
                x = self.excitations[str(side)](maps[side // EXCITATION_RATIO], x)
            maps[side] = x
        return (torch.tanh(self.to_image(x)),)

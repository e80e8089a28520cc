"""R3GAN's generator (Huang et al. 2024), conditioned on text."""

from __future__ import annotations

import itertools
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from stackflower.options import Count
from stackflower.registry import register
from stackflower.stages.base import Generator
from stackflower.stages.layers import require_doublings
from stackflower.stages.r3gan_blocks import Resampling, build_convolution, build_residual_blocks, list_widths


@register("generator", "r3gan")
class R3Generator(Generator):
    """R3GAN's residual generator without normalisation (Huang et al. 2024, section 4).

    Condition and noise weight the channels of a learned 4×4 basis; residual blocks and bilinear upsampling follow.

    Args:
        resolution: height and width of the image, a power of two from 16 up.
        channels: width at `resolution`, twice as much at lower resolutions; 384 in the release for 64 px.
        blocks: residual blocks per resolution.
        group_width: channels per group of the 3×3 convolutions; 16 in the release.
        noise_dim: size of z; 64 in the release.
        noise: distribution of z: standard normal, or uniform on [-1, 1].
    """

    def __init__(
        self,
        *,
        condition_dim: int,
        resolution: Count = 64,
        channels: Count = 384,
        blocks: Count = 2,
        group_width: Count = 16,
        noise_dim: Count = 64,
        noise: Literal["normal", "uniform"] = "normal",
    ):
        super().__init__()
        widths = list_widths(require_doublings(resolution, "`generator.resolution`"), channels)
        self.resolutions = (resolution,)
        self.noise_dim, self.noise = noise_dim, noise
        self.basis = nn.Parameter(torch.randn(widths[0], 4, 4))
        inputs = condition_dim + noise_dim
        self.weigh = nn.Linear(inputs, widths[0], bias=False)
        nn.init.normal_(self.weigh.weight, 0.0, inputs**-0.5)
        build_level = partial(build_residual_blocks, group_width=group_width, count=blocks, levels=len(widths))
        layers = build_level(widths[0])
        for wide, narrow in itertools.pairwise(widths):
            layers += [Resampling(wide, narrow, up=True), *build_level(narrow)]
        self.layers = nn.Sequential(*layers)
        self.to_image = build_convolution(widths[-1], 3, 1, 1.0)

    def generate(self, condition: Tensor, noise: Tensor) -> tuple[Tensor, ...]:
        weights = self.weigh(torch.cat([condition, noise], 1))
        x = (weights[:, :, None, None] * self.basis).contiguous(memory_format=torch.channels_last)
        return (self.to_image(self.layers(x)),)

"""Residual ("highway") generator of the competition report's large GAN-CLS."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from stackflower.options import Below1, Count
from stackflower.registry import register
from stackflower.stages.base import Generator, initialise
from stackflower.stages.layers import GeneratorNorm, ReferenceBatch, UpsampleConv, build_norm2d, require_doublings


class HighwayBlock(nn.Module):
    """Residual block of 1×1, 3×3 and 3×3 convolutions, with a bottleneck of a quarter of the width.

    Args:
        channels: channels of the input and the output.
        norm: normalisation after each convolution.
    """

    def __init__(self, channels: int, norm: GeneratorNorm):
        super().__init__()
        narrow = max(channels // 4, 1)
        bias = norm == "none"
        self.layers = nn.Sequential(
            nn.Conv2d(channels, narrow, 1, bias=bias),
            build_norm2d(norm, narrow),
            nn.ReLU(inplace=True),
            nn.Conv2d(narrow, narrow, 3, padding=1, bias=bias),
            build_norm2d(norm, narrow),
            nn.ReLU(inplace=True),
            nn.Conv2d(narrow, channels, 3, padding=1, bias=bias),
            build_norm2d(norm, channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.relu(x + self.layers(x))


@register("generator", "residual")
class ResidualGenerator(Generator):
    """Residual generator of the competition report: residual blocks at 4×4 and 8×8, then upsampling and convolutions.

    Condition and noise are projected to 4×4. Upsampling is nearest-neighbour, followed by a 3×3 convolution.

    Args:
        resolution: height and width of the image, a power of two from 16 up.
        channels: width at `resolution` / 2; doubles with every halving of the resolution, up to 8-fold; 128 in the
            report.
        noise_dim: size of z; 512 in the report.
        noise: distribution of z: standard normal, or uniform on [-1, 1].
        norm: normalisation after each convolution; choose "virtual" if batch normalisation gives all images of a batch
            the same colour.
        dropout: probability that a channel is zeroed at 4×4 during training; 0.5 in the report.
    """

    def __init__(
        self,
        *,
        condition_dim: int,
        resolution: Count = 64,
        channels: Count = 128,
        noise_dim: Count = 512,
        noise: Literal["normal", "uniform"] = "normal",
        norm: GeneratorNorm = "batch",
        dropout: Below1 = 0.0,
    ):
        super().__init__()
        depth = require_doublings(resolution, "`generator.resolution`")
        self.resolutions = (resolution,)
        self.noise_dim, self.noise = noise_dim, noise
        widths = [channels * min(2 ** (depth - 1 - level), 8) for level in range(depth)]
        self.wide = widths[0]
        self.dense = nn.Linear(condition_dim + noise_dim, self.wide * 16, bias=False)
        self.first = build_norm2d(norm, self.wide)
        layers: list[nn.Module] = [HighwayBlock(self.wide, norm), nn.Dropout2d(dropout)]
        for level, (wide, narrow) in enumerate(zip(widths, [*widths[1:], widths[-1]], strict=True)):
            layers += [UpsampleConv(wide, narrow), build_norm2d(norm, narrow), nn.ReLU(inplace=True)]
            layers += [HighwayBlock(narrow, norm)] if level == 0 else []
        self.layers = nn.Sequential(*layers, nn.Conv2d(widths[-1], 3, 3, padding=1))
        initialise(self)
        self.reference_batch = ReferenceBatch(condition_dim, noise_dim) if norm == "virtual" else None

    def generate(self, condition: Tensor, noise: Tensor) -> tuple[Tensor, ...]:
        inputs = torch.cat([condition, noise], 1)
        x = self.dense(inputs).unflatten(1, (self.wide, 4, 4)).contiguous(memory_format=torch.channels_last)
        return (torch.tanh(self.layers(nn.functional.relu(self.first(x)))),)

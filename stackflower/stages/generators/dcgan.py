"""DCGAN's generator (Radford et al. 2016), conditioned on text as in GAN-CLS (Reed et al. 2016)."""

from __future__ import annotations

import itertools
from typing import Literal

import torch
from torch import Tensor, nn

from stackflower.options import Below1, Count
from stackflower.registry import register
from stackflower.stages.base import Generator, initialise
from stackflower.stages.layers import GeneratorNorm, ReferenceBatch, build_norm2d, require_doublings


@register("generator", "dcgan")
class DCGANGenerator(Generator):
    """DCGAN's generator (Radford et al. 2016, figure 1): transposed convolutions of stride 2 from 4×4 to `resolution`.

    Condition and noise are concatenated and projected to 4×4.

    Args:
        resolution: height and width of the image, a power of two from 16 up.
        channels: width before the last layer; doubles with every halving of the resolution, up to 8-fold.
        noise_dim: size of z.
        noise: distribution of z: standard normal, or uniform on [-1, 1].
        norm: normalisation after every layer except the last.
        dropout: probability that a channel is zeroed at 4×4 and 8×8 during training.
    """

    def __init__(
        self,
        *,
        condition_dim: int,
        resolution: Count = 64,
        channels: Count = 64,
        noise_dim: Count = 100,
        noise: Literal["normal", "uniform"] = "normal",
        norm: GeneratorNorm = "batch",
        dropout: Below1 = 0.0,
    ):
        super().__init__()
        depth = require_doublings(resolution, "`generator.resolution`")
        self.resolutions = (resolution,)
        self.noise_dim, self.noise = noise_dim, noise
        widths = [channels * min(2 ** (depth - 1 - level), 8) for level in range(depth)]
        layers: list[nn.Module] = [nn.ConvTranspose2d(condition_dim + noise_dim, widths[0], 4, bias=norm == "none")]
        for level, (wide, narrow) in enumerate(itertools.pairwise(widths)):
            layers += [build_norm2d(norm, wide), nn.ReLU(inplace=True)]
            layers += [nn.Dropout2d(dropout)] if dropout and level < 2 else []
            layers.append(nn.ConvTranspose2d(wide, narrow, 4, 2, 1, bias=norm == "none"))
        layers += [build_norm2d(norm, widths[-1]), nn.ReLU(inplace=True), nn.ConvTranspose2d(widths[-1], 3, 4, 2, 1)]
        self.layers = nn.Sequential(*layers)
        initialise(self)
        self.reference_batch = ReferenceBatch(condition_dim, noise_dim) if norm == "virtual" else None

    def generate(self, condition: Tensor, noise: Tensor) -> tuple[Tensor, ...]:
        inputs = torch.cat([condition, noise], 1)
        return (torch.tanh(self.layers(inputs[:, :, None, None])),)

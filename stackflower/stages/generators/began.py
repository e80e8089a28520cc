"""BEGAN's generator (Berthelot et al. 2017, figure 1), conditioned on text."""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stackflower.options import Count
from stackflower.registry import register
from stackflower.stages.base import Generator
from stackflower.stages.layers import require_doublings

BASE_SIZE = 8  # height and width where the decoder starts and the encoder ends


def initialise_elu(module: nn.Module) -> None:
    """Initialise weights from a normal distribution that preserves the variance through ELUs; biases to zero."""
    for layer in module.modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            fan_in = layer.weight[0].numel()
            nn.init.normal_(layer.weight, 0.0, 1.245 / math.sqrt(fan_in))
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)


def count_doublings_from_8(resolution: int) -> int:
    """Return how often 8 must be doubled to reach `resolution`.

    Raises:
        ComponentError: the resolution is not a power of two from 16 up.
    """
    return require_doublings(resolution, "The resolution of BEGAN's networks") - 1


def build_convolution_pair(in_channels: int, out_channels: int) -> list[nn.Module]:
    """Build two 3×3 convolutions, each followed by an ELU."""
    return [
        nn.Conv2d(in_channels, out_channels, 3, padding=1),
        nn.ELU(inplace=True),
        nn.Conv2d(out_channels, out_channels, 3, padding=1),
        nn.ELU(inplace=True),
    ]


class Decoder(nn.Module):
    """Decoder of the autoencoder, from codes to images that are not bounded to [-1, 1].

    Args:
        code_dim: size of the code.
        resolution: height and width of the images.
        channels: width of every layer.
    """

    def __init__(self, code_dim: int, resolution: int, channels: int):
        super().__init__()
        self.channels = channels
        self.dense = nn.Linear(code_dim, channels * BASE_SIZE * BASE_SIZE)
        layers: list[nn.Module] = build_convolution_pair(channels, channels)
        for _ in range(count_doublings_from_8(resolution)):
            layers += [nn.Upsample(scale_factor=2, mode="nearest"), *build_convolution_pair(channels, channels)]
        self.layers = nn.Sequential(*layers, nn.Conv2d(channels, 3, 3, padding=1))
        initialise_elu(self)

    def forward(self, code: Tensor) -> Tensor:
        """Decode codes `(N, code_dim)` to images `(N, 3, R, R)`."""
        x = self.dense(code).unflatten(1, (self.channels, BASE_SIZE, BASE_SIZE))
        return self.layers(x.contiguous(memory_format=torch.channels_last))


@register("generator", "began")
class DecoderGenerator(Generator):
    """BEGAN's generator (Berthelot et al. 2017, section 3.5): a linear layer to a code, then the autoencoder's decoder.

    The linear layer takes condition and noise. The images are not bounded by a tanh; the penalty ``out-of-range`` keeps
    them within [-1, 1].

    Args:
        resolution: height and width of the image, a power of two from 16 up.
        channels: width n of every layer; 128 in the anime-face report.
        noise_dim: size of z; 64 in the report.
        noise: distribution of z: uniform on [-1, 1], as in the paper, or standard normal.
        code_dim: size of the code.
    """

    def __init__(
        self,
        *,
        condition_dim: int,
        resolution: Count = 64,
        channels: Count = 64,
        noise_dim: Count = 64,
        noise: Literal["normal", "uniform"] = "uniform",
        code_dim: Count = 64,
    ):
        super().__init__()
        self.resolutions = (resolution,)
        self.noise_dim, self.noise = noise_dim, noise
        self.join = nn.Linear(condition_dim + noise_dim, code_dim)
        initialise_elu(self)
        self.decoder = Decoder(code_dim, resolution, channels)

    def generate(self, condition: Tensor, noise: Tensor) -> tuple[Tensor, ...]:
        return (self.decoder(F.elu(self.join(torch.cat([condition, noise], 1)))),)

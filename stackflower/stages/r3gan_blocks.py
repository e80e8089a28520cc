"""Residual blocks shared by R3GAN's generator and discriminator (Huang et al. 2024, section 4)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LEAKY_RELU_SLOPE = 0.2
LEAKY_RELU_GAIN = math.sqrt(2 / (1 + LEAKY_RELU_SLOPE**2))  # preserves the variance through a leaky ReLU
EXPANSION_FACTOR = 2  # width inside a block relative to its input


def build_convolution(in_channels: int, out_channels: int, size: int, gain: float, groups: int = 1) -> nn.Conv2d:
    """Build a convolution without bias, initialised from N(0, gain² / fan-in) (He et al. 2015).

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        size: kernel size; the padding preserves height and width.
        gain: gain of the initial weights; 0 initialises them to zero.
        groups: groups of the convolution.
    """
    layer = nn.Conv2d(in_channels, out_channels, size, padding=size // 2, groups=groups, bias=False)
    if gain:
        nn.init.normal_(layer.weight, 0.0, gain / math.sqrt(layer.weight[0].numel()))
    else:
        nn.init.zeros_(layer.weight)
    return layer


class BiasedActivation(nn.Module):
    """Leaky ReLU of the input plus a bias per channel."""

    def __init__(self, channels: int):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        return F.leaky_relu(x + self.bias.to(x.dtype)[:, None, None], LEAKY_RELU_SLOPE)


class ResidualBlock(nn.Module):
    """Residual block of 1×1, grouped 3×3 and 1×1 convolutions, without normalisation; the last is initialised to zero.

    Args:
        channels: channels of the input and the output.
        group_width: channels per group of the 3×3 convolution.
        blocks: number L of residual blocks in the whole network. Initial weights are scaled by L^(-1/4), which keeps
            the variance independent of the depth (Zhang et al. 2019, Fixup).
    """

    def __init__(self, channels: int, group_width: int, blocks: int):
        super().__init__()
        wide = EXPANSION_FACTOR * channels
        groups = max(1, wide // group_width)
        groups = next(number for number in range(groups, 0, -1) if wide % number == 0)
        gain = LEAKY_RELU_GAIN * blocks**-0.25
        self.layers = nn.Sequential(
            build_convolution(channels, wide, 1, gain),
            BiasedActivation(wide),
            build_convolution(wide, wide, 3, gain, groups),
            BiasedActivation(wide),
            build_convolution(wide, channels, 1, 0.0),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


def build_residual_blocks(channels: int, group_width: int, count: int, levels: int) -> list[nn.Module]:
    """Build the residual blocks of one resolution.

    Args:
        channels: channels of the blocks.
        group_width: channels per group of the 3×3 convolutions.
        count: blocks per resolution.
        levels: number of resolutions of the network.
    """
    return [ResidualBlock(channels, group_width, count * levels) for _ in range(count)]


class Resampling(nn.Module):
    """Bilinear resampling by two with the filter [1, 2, 1], and a 1×1 convolution if the channels change.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        up: upsample rather than downsample.
    """

    kernel: Tensor

    def __init__(self, in_channels: int, out_channels: int, up: bool):
        super().__init__()
        self.up = up
        taps = torch.tensor([1.0, 2.0, 1.0]) / 4
        self.register_buffer("kernel", taps[:, None] * taps, persistent=False)
        self.width = (
            build_convolution(in_channels, out_channels, 1, 1.0) if in_channels != out_channels else nn.Identity()
        )

    def forward(self, x: Tensor) -> Tensor:
        if self.up:
            return F.interpolate(self.width(x), scale_factor=2, mode="bilinear")
        kernel = self.kernel.to(x.dtype).expand(x.shape[1], 1, 3, 3)
        return self.width(F.conv2d(F.pad(x, (1, 1, 1, 1), mode="reflect"), kernel, stride=2, groups=x.shape[1]))


def list_widths(resolution_doublings: int, channels: int) -> list[int]:
    """Return the widths from 4×4 to the full resolution: `channels` at the latter, twice as many below."""
    return [2 * channels] * resolution_doublings + [channels]

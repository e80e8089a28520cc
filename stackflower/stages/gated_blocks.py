"""Convolutional blocks with gated linear units, as in StackGAN-v2 (Zhang et al. 2018) and AttnGAN (Xu et al. 2018)."""

from __future__ import annotations

from torch import Tensor, nn

from stackflower.errors import ComponentError
from stackflower.stages.layers import Norm, UpsampleConv, build_norm2d, count_doublings


def list_scales(resolution: int, scales: int, least: int, subject: str) -> tuple[tuple[int, ...], int]:
    """List the resolutions of a generator with several, each half of the next.

    Args:
        resolution: the largest resolution.
        scales: number of resolutions.
        least: smallest number of resolutions.
        subject: subject of the rule in the error message.

    Returns:
        The resolutions, ascending, and how often 4 must be doubled to reach the smallest.

    Raises:
        ComponentError: there are fewer than `least`, or the smallest is not a power of two from 16 up.
    """
    smallest = resolution // 2 ** max(scales - 1, 0)
    depth = count_doublings(smallest)
    if scales < least or depth is None or smallest * 2 ** (scales - 1) != resolution:
        raise ComponentError(
            f"`generator.resolution={resolution}` does not fit `generator.scales={scales}`: {subject} is half of the "
            "next, and the smallest must be a power of two from 16 up."
        )
    return tuple(smallest * 2**scale for scale in range(scales)), depth


def build_gated_upsampling(in_channels: int, out_channels: int, norm: Norm) -> nn.Sequential:
    """Build upsampling by two and a 3×3 convolution with a gated linear unit."""
    return nn.Sequential(UpsampleConv(in_channels, 2 * out_channels), build_norm2d(norm, 2 * out_channels), nn.GLU(1))


class GatedResidualBlock(nn.Module):
    """Residual block of two 3×3 convolutions, the first of which is gated.

    Args:
        channels: channels of the input and the output.
        norm: normalisation after each convolution.
    """

    def __init__(self, channels: int, norm: Norm):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(channels, 2 * channels, 3, padding=1, bias=norm == "none"),
            build_norm2d(norm, 2 * channels),
            nn.GLU(1),
            nn.Conv2d(channels, channels, 3, padding=1, bias=norm == "none"),
            build_norm2d(norm, channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)

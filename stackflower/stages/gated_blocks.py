"""Convolutional blocks with gated linear units, as in StackGAN-v2 (Zhang et al. 2018) and AttnGAN (Xu et al. 2018)."""

from __future__ import annotations

from torch import Tensor, nn

from stackflower.stages.layers import Norm, UpsampleConv, build_norm2d


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

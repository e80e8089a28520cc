"""DF-GAN's one-way discriminator (Tao et al. 2022)."""

from __future__ import annotations

import itertools
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stackflower.options import Count
from stackflower.registry import register
from stackflower.stages.base import Discriminator, Text, Verdict
from stackflower.stages.layers import require_doublings


class DownBlock(nn.Module):
    """Residual block that halves the resolution: a 4×4 convolution of stride 2 and a 3×3 convolution.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
    """

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(in_channels, out_channels, 4, 2, 1, bias=False),
            nn.LeakyReLU(0.2),
            nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False),
            nn.LeakyReLU(0.2),
        )
        self.gain = nn.Parameter(torch.zeros(()))
        self.shortcut = nn.Conv2d(in_channels, out_channels, 1) if in_channels != out_channels else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Map `(N, in_channels, H, W)` to `(N, out_channels, H/2, W/2)`."""
        return F.avg_pool2d(self.shortcut(x), 2) + self.gain.to(x.dtype) * self.layers(x)


@register("discriminator", "deep-fusion")
class OneWayDiscriminator(Discriminator):
    """DF-GAN's one-way discriminator (Tao et al. 2022, section 3.3): residual blocks, then one text-conditioned score.

    Residual blocks reduce the image to 4×4. The text is repeated over all positions, and two convolutions give the
    score. It has neither an unconditional score nor normalisation. The paper regularises it with the penalty
    ``matching-aware``.

    Args:
        channels: width nf of the first layer; doubles with every halving of the resolution, up to 8-fold; 32 in the
            release.
        text: text input: the text embedding ("embedding", as in the paper), or the detached mean of the
            conditioning ("condition").
    """

    brings = {"objective": "hinge"}

    def __init__(
        self,
        *,
        text_dim: int,
        condition_dim: int,
        resolution: Count,
        channels: Count = 32,
        text: Literal["condition", "embedding"] = "embedding",
    ):
        super().__init__()
        depth = require_doublings(resolution, "The resolution of this discriminator")
        widths = [channels * min(2**level, 8) for level in range(depth + 1)]
        self.layers = nn.Sequential(
            nn.Conv2d(3, widths[0], 3, padding=1), *(DownBlock(a, b) for a, b in itertools.pairwise(widths))
        )
        self.uses_embedding = text == "embedding"
        joined_dim = text_dim if self.uses_embedding else condition_dim
        self.join = nn.Conv2d(widths[-1] + joined_dim, 2 * channels, 3, padding=1, bias=False)
        self.head = nn.Conv2d(2 * channels, 1, 4, bias=False)

    def trunk(self, perceived: Tensor) -> Tensor:
        return self.layers(perceived)

    def judge(self, features: Tensor, text: Text) -> Verdict:
        text_features = text.embedding if self.uses_embedding else text.condition
        text_features = text_features.to(features.dtype)[:, :, None, None]
        width = features.shape[1]
        joined = F.conv2d(features, self.join.weight[:, :width], padding=1) + F.conv2d(
            text_features.expand(-1, -1, *features.shape[2:]), self.join.weight[:, width:], padding=1
        )
        return Verdict(self.head(F.leaky_relu(joined, 0.2)).flatten().float())

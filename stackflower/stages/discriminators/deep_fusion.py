"""DF-GAN's discriminator (Tao et al. 2022), with one-way output."""

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
    """A 4×4 convolution of stride 2 and a 3×3 one, with leaky ReLUs, added to the average-pooled input."""

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
        return F.avg_pool2d(self.shortcut(x), 2) + self.gain.to(x.dtype) * self.layers(x)


@register("discriminator", "deep-fusion")
class OneWayDiscriminator(Discriminator):
    """Residual blocks to 4×4, the text repeated over the positions, two convolutions to one score (section 3.3).

    There is no unconditional score and no norm. The paper regularises it by the penalty ``matching-aware``.

    Args:
        channels: width nf of the first layer, doubled by every halving of the resolution up to 8-fold; 32 in the
            release.
        text: its text input: the text embedding itself (as in the paper), or the conditioning's detached mean.
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

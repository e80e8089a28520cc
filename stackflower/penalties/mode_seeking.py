"""The mode-seeking regulariser."""

from __future__ import annotations

from torch import Tensor

from stackflower.options import Count, Weight
from stackflower.penalties.base import Penalty, Shown
from stackflower.registry import register


@register("penalty", "mode-seeking")
class ModeSeeking(Penalty):
    """Rewards different pictures for different noises (Mao et al. 2019): E[ ‖z₁ − z₂‖ / ‖G(z₁) − G(z₂)‖ ].

    Neighbours in the batch are compared, so it wants `train.noises_per_caption = 2`; both images and noises are measured
    by their mean absolute difference, as the authors do.

    Args:
        weight: its weight in the generator's loss.
        every: how often it is computed, in steps.
    """

    side = "generator"

    def __init__(self, *, weight: Weight = 1.0, every: Count = 1):
        super().__init__(weight=weight, every=every)

    def forward(self, shown: Shown) -> Tensor:
        images = (shown.fake[0::2].float() - shown.fake[1::2].float()).abs().mean((1, 2, 3))
        noises = (shown.noise[0::2] - shown.noise[1::2]).abs().mean(1)
        return (noises / (images + 1e-5)).mean()

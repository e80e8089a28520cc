"""The mode-seeking regulariser."""

from __future__ import annotations

from torch import Tensor

from stackflower.options import Count, Weight
from stackflower.penalties.base import Penalty, PenaltyInputs
from stackflower.registry import register


@register("penalty", "mode-seeking")
class ModeSeeking(Penalty):
    """Rewards different images for different latents (Mao et al. 2019): E[ ‖z₁ − z₂‖ / ‖G(z₁) − G(z₂)‖ ].

    It compares neighbours in the batch, so it needs `train.latents_per_caption = 2`; images and latents are compared by their
    mean absolute difference, as in the authors' release.

    Args:
        weight: its weight in the generator's loss.
        every: interval in steps.
    """

    network = "generator"
    latents_per_caption = 2

    def __init__(self, *, weight: Weight = 1.0, every: Count = 1):
        super().__init__(weight=weight, every=every)

    def forward(self, inputs: PenaltyInputs) -> Tensor:
        images = (inputs.fake[0::2].float() - inputs.fake[1::2].float()).abs().mean((1, 2, 3))
        noises = (inputs.noise[0::2] - inputs.noise[1::2]).abs().mean(1)
        return (noises / (images + 1e-5)).mean()

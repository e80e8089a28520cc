"""Least-squares loss."""

from __future__ import annotations

from torch import Tensor

from stackflower.objectives.matching_aware import MatchingAware
from stackflower.options import Weight
from stackflower.registry import register


@register("objective", "least-squares")
class LeastSquares(MatchingAware):
    """Least-squares loss (Mao et al. 2017, eq. 9): half the squared distance of a logit from its label.

    Args:
        real_label: label b of real pairs, and label c that the generator aims for.
        fake_label: label a of fake and mismatched pairs.
        contrast: weight of the contrastive term in the discriminator's loss (see `Contrastive`).
        generator_contrast: weight of the contrastive term in the generator's loss.
    """

    def __init__(
        self,
        *,
        real_label: float = 1.0,
        fake_label: float = 0.0,
        contrast: Weight = 1.0,
        generator_contrast: Weight = 1.0,
    ):
        super().__init__(contrast=contrast, generator_contrast=generator_contrast)
        self.real_label, self.fake_label = real_label, fake_label

    def real(self, logits: Tensor) -> Tensor:
        return 0.5 * (logits - self.real_label).square().mean()

    def fake(self, logits: Tensor) -> Tensor:
        return 0.5 * (logits - self.fake_label).square().mean()

    def generator_loss(self, logits: Tensor) -> Tensor:
        return self.real(logits)

"""Binary cross-entropy."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from stackflower.objectives.matching_aware import MatchingAware
from stackflower.options import Share, Weight
from stackflower.registry import register


@register("objective", "bce")
class BinaryCrossEntropy(MatchingAware):
    """The minimax game with the non-saturating generator loss (Goodfellow et al. 2014), on logits.

    Args:
        real_label: target of real pairs; 0.9 is one-sided smoothing (Salimans et al. 2016).
        fake_label: target of fake and mismatched pairs; 0.1 smooths those labels too.
        contrast, generator_contrast: weights of the contrast term, where the discriminator gives one.
    """

    offers = ("contrast", "signed scores")

    def __init__(
        self,
        *,
        real_label: Share = 1.0,
        fake_label: Share = 0.0,
        contrast: Weight = 1.0,
        generator_contrast: Weight = 1.0,
    ):
        super().__init__(contrast=contrast, generator_contrast=generator_contrast)
        self.real_label, self.fake_label = real_label, fake_label

    @staticmethod
    def _compute_loss(logits: Tensor, label: float) -> Tensor:
        return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, label))

    def real(self, logits: Tensor) -> Tensor:
        return self._compute_loss(logits, self.real_label)

    def fake(self, logits: Tensor) -> Tensor:
        return self._compute_loss(logits, self.fake_label)

    def generator_loss(self, logits: Tensor) -> Tensor:
        return self._compute_loss(logits, self.real_label)

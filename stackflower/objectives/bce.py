"""Binary cross-entropy loss."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from stackflower.objectives.matching_aware import MatchingAware
from stackflower.options import Share, Weight
from stackflower.registry import register


@register("objective", "bce")
class BinaryCrossEntropy(MatchingAware):
    """Binary cross-entropy on logits, with the non-saturating generator loss (Goodfellow et al. 2014).

    Args:
        real_label: target of real pairs; 0.9 gives one-sided label smoothing (Salimans et al. 2016).
        fake_label: target of fake and mismatched pairs; 0.1 smooths those labels too.
        contrast: weight of the contrastive term in the discriminator's loss (see `Contrastive`).
        generator_contrast: weight of the contrastive term in the generator's loss.
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

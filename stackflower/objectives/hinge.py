"""Hinge loss."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from stackflower.objectives.matching_aware import MatchingAware
from stackflower.options import Weight
from stackflower.registry import register


@register("objective", "hinge")
class Hinge(MatchingAware):
    """Hinge loss (Lim & Ye 2017; Miyato et al. 2018), with margins at 1 for real pairs and −1 for all others.

    The generator maximises the score of its images.

    Args:
        contrast: weight of the contrastive term in the discriminator's loss (see `Contrastive`).
        generator_contrast: weight of the contrastive term in the generator's loss.
    """

    offers = ("contrast", "signed scores")

    def __init__(self, *, contrast: Weight = 1.0, generator_contrast: Weight = 1.0):
        super().__init__(contrast=contrast, generator_contrast=generator_contrast)

    def real(self, logits: Tensor) -> Tensor:
        return F.relu(1 - logits).mean()

    def fake(self, logits: Tensor) -> Tensor:
        return F.relu(1 + logits).mean()

    def generator_loss(self, logits: Tensor) -> Tensor:
        return -logits.mean()

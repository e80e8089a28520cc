"""The hinge loss."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from stackflower.objectives.matching_aware import MatchingAware
from stackflower.options import Weight
from stackflower.registry import register


@register("objective", "hinge")
class Hinge(MatchingAware):
    """Hinge loss (Lim & Ye 2017; Miyato et al. 2018): real pairs above 1, others below −1; the generator maximises.

    Args:
        contrast, generator_contrast: weights of the contrast term, where the discriminator gives one.
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

"""Wasserstein loss."""

from __future__ import annotations

from torch import Tensor

from stackflower.declarations import Requirement
from stackflower.objectives.matching_aware import MatchingAware
from stackflower.options import Weight
from stackflower.registry import register


@register("objective", "wasserstein")
class Wasserstein(MatchingAware):
    """Wasserstein loss (Arjovsky et al. 2017, eq. 2): mean score of fake pairs minus mean score of real pairs.

    It is unbounded unless a penalty, such as ``gradient``, bounds the gradient of the critic.

    Args:
        mismatched: also lower the scores of mismatched pairs; these and fake pairs each have half the weight, as in
            GAN-CLS.
        contrast: weight of the contrastive term in the discriminator's loss (see `Contrastive`).
        generator_contrast: weight of the contrastive term in the generator's loss.
    """

    requires = (
        *MatchingAware.requires,
        Requirement("bounded gradient", of="penalty", why="lets the discriminator's scores grow without bound"),
    )
    brings = {"penalty": "gradient"}

    def __init__(self, *, mismatched: bool = False, contrast: Weight = 1.0, generator_contrast: Weight = 1.0):
        super().__init__(contrast=contrast, generator_contrast=generator_contrast)
        self.mismatched = mismatched

    def real(self, logits: Tensor) -> Tensor:
        return -logits.mean()

    def fake(self, logits: Tensor) -> Tensor:
        return logits.mean()

    def generator_loss(self, logits: Tensor) -> Tensor:
        return -logits.mean()

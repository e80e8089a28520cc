"""The Wasserstein loss."""

from __future__ import annotations

from torch import Tensor

from stackflower.declarations import Requirement
from stackflower.objectives.matching_aware import MatchingAware
from stackflower.options import Weight
from stackflower.registry import register


@register("objective", "wasserstein")
class Wasserstein(MatchingAware):
    """Wasserstein loss (Arjovsky et al. 2017, equation 2): the mean score of fake pairs minus that of real pairs.

    The critic must be kept from growing without bound: add a penalty such as ``gradient``.

    Args:
        mismatched: also push mismatched pairs down, at half the weight, as GAN-CLS does.
        contrast, generator_contrast: weights of the contrast term, where the discriminator gives one.
    """

    requires = (
        *MatchingAware.requires,
        Requirement("bounded gradient", of="penalty", why="lets the discriminator grow without bound"),
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

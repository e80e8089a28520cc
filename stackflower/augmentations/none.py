"""No augmentation."""

from __future__ import annotations

from torch import Tensor

from stackflower.augmentations.base import Augmentation
from stackflower.registry import register


@register("augmentation", "none")
class NoAugmentation(Augmentation):
    """No augmentation; images are passed through."""

    def forward(self, images: Tensor, draws: Tensor) -> Tensor:
        return images

"""The base class of augmentations: random transformations of the images that a discriminator sees.

Real and generated images are augmented alike, in the discriminator's step, in the generator's and under penalties, and
the gradient passes through to the image, so that a generator learns the distribution of images that are not augmented
(Zhao et al. 2020; Karras et al. 2020).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

from torch import Tensor, nn

from stackflower.declarations import Declared


class Augmentation(Declared, nn.Module, ABC):
    """Base of all augmentations; a Module so that state of its own (buffers) is saved with it.

    All randomness is in `draws`, which come with the batch: a resumed run and a run on several processes see the same
    ones. Row i of the real and of the generated images shares them, in both steps.
    """

    dim: int = 0  # uniform numbers in [0, 1) that it uses for an image
    adaptive: bool = False  # whether it wants `observe` and `after_step`

    @abstractmethod
    def forward(self, images: Tensor, draws: Tensor) -> Tensor:
        """Images (N, 3, R, R) in [-1, 1] and draws (N, `dim`) to images of the same shape, or to smaller squares, twice
        differentiable."""

    def observe(self, real: Tensor, fake: Tensor, relativistic: bool) -> None:
        """Scores (N,) of a part of the discriminator's step, of real and of generated images; where the objective is
        relativistic, only their difference means anything."""

    def measures(self) -> dict[str, Tensor]:
        """Scalars of this process's share of the step, to be averaged over processes for `after_step`."""
        return {}

    def after_step(self, measured: Mapping[str, Tensor], images: int) -> dict[str, Tensor]:
        """Update its state from the averaged `measures` of a step of `images` images; return measures for the log."""
        return {}

"""Base class of augmentations, random transformations of the images that the discriminator sees.

Real and generated images are augmented alike, in the steps of both networks and in penalties, and gradients pass
through the augmentation. The generator therefore learns the distribution of unaugmented images (Zhao et al. 2020;
Karras et al. 2020).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

from torch import Tensor, nn

from stackflower.declarations import Declared


class Augmentation(Declared, nn.Module, ABC):
    """Base class of augmentations.

    A subclass sets `dim` and defines `forward`. All randomness comes from `draws`, random numbers that belong to the
    batch, so resumed runs and runs on several processes are reproducible. The real and the generated image of a row
    share their draws, in the steps of both networks. An augmentation is a module so that its state, kept in buffers, is
    saved with the run.

    Attributes:
        dim: uniform random numbers in [0, 1) used per image.
        adaptive: whether `observe` and `after_step` are called.
    """

    dim: int = 0
    adaptive: bool = False

    @abstractmethod
    def forward(self, images: Tensor, draws: Tensor) -> Tensor:
        """Augment images; must be twice differentiable.

        Args:
            images: images `(N, 3, R, R)` in `[-1, 1]`.
            draws: uniform random numbers in `[0, 1)`, `(N, dim)`.

        Returns:
            Images of the same shape, or smaller squares.
        """

    def observe(self, real: Tensor, fake: Tensor, relativistic: bool) -> None:
        """Receive the scores of real and generated images in the discriminator's step; called for each part of a batch.

        Args:
            real: scores of real images, `(N,)`.
            fake: scores of generated images, `(N,)`.
            relativistic: whether the objective is relativistic, in which case only differences of scores are
                meaningful.
        """

    def measures(self) -> dict[str, Tensor]:
        """Return scalars of this process; their averages over processes are passed to `after_step`."""
        return {}

    def after_step(self, measured: Mapping[str, Tensor], images: int) -> dict[str, Tensor]:
        """Update the state of the augmentation after a training step.

        Args:
            measured: output of `measures`, averaged over processes.
            images: number of images of the step.

        Returns:
            Scalars to log, by name.
        """
        return {}

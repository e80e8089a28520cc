"""Base class of adversarial objectives, the losses of discriminator and generator.

An objective is given a critic, any callable from images and a list of texts to a list of verdicts, and returns named
terms to be minimised. It never calls `backward`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from stackflower.declarations import Declared, Requirement, Requirements
from stackflower.stages.base import Critic, Scores, Text, split_heads


class Pairs(NamedTuple):
    """Image-text pairs of a training step, for both the discriminator and the generator."""

    real: Tensor  # (N, 3, R, R)
    fake: Tensor  # (N, 3, R, R), generated for `fake_text`; detached in the discriminator's step
    text: Text  # texts of `real`
    negative_text: Text | None  # texts that do not match `real`; None if no mismatched pairs are used
    fake_text: Text  # texts of `fake`
    latents: int = 1  # consecutive images of `fake` that share a text, that of the first real image at their positions

    def align_with_fake(self, scores: Tensor) -> Tensor:
        """Reorder the scores of real images to match the generated ones.

        Args:
            scores: scores of `real`, `(N, …)`.

        Returns:
            For each generated image, the score of the real image whose text it was generated for, `(N, …)`.
        """
        if self.latents == 1:
            return scores
        return scores[:: self.latents].repeat_interleave(self.latents, 0)


def average_over_heads(loss: Callable[[Tensor], Tensor], scores: Scores) -> Tensor:
    """Apply a loss to the scores of each head and average over heads, whatever their number of patches.

    Args:
        loss: maps the scores of one head to a scalar.
        scores: scores of all heads.
    """
    losses = [loss(head) for head in split_heads(scores)]
    return losses[0] if len(losses) == 1 else torch.stack(losses).mean()


class Objective(Declared, nn.Module, ABC):
    """Base class of adversarial objectives.

    A subclass defines `discriminator_terms` and `generator_terms`. An objective is a module so that its state, kept in
    buffers, is saved with the run.

    Attributes:
        mismatched: whether mismatched pairs are used.
        relativistic: whether each generated image is compared with a real one of the same text.

    Example:
        >>> import torch
        >>> import stackflower as sf
        >>> from stackflower.objectives import Pairs
        >>> from stackflower.stages import Text, Verdict
        >>> def critic(images, texts):
        ...     return [Verdict(images.mean((1, 2, 3))) for text in texts]
        >>> text = Text(embedding=torch.zeros(2, 8), condition=torch.zeros(2, 4))
        >>> real, fake = torch.ones(2, 3, 16, 16), -torch.ones(2, 3, 16, 16)
        >>> hinge = sf.create("objective", "hinge")
        >>> hinge.generator_terms(critic, Pairs(real, fake, text, negative_text=None, fake_text=text))
        {'adversarial': tensor(1.)}
    """

    requires: ClassVar[Requirements] = (
        Requirement("logit scores", of="discriminator", why="requires logit scores, but {other} outputs {offered}"),
    )

    mismatched: bool = True
    relativistic: ClassVar[bool] = False

    @abstractmethod
    def discriminator_terms(self, critic: Critic, pairs: Pairs) -> dict[str, Tensor]:
        """Compute the losses of the discriminator.

        Args:
            critic: scores images against texts.
            pairs: pairs of the step; `pairs.fake` is detached.

        Returns:
            Scalars by name, which are summed and minimised.
        """

    @abstractmethod
    def generator_terms(self, critic: Critic, pairs: Pairs) -> dict[str, Tensor]:
        """Compute the losses of the generator.

        Args:
            critic: scores images against texts.
            pairs: pairs of the step; `pairs.fake` requires a gradient, and `pairs.negative_text` is None.

        Returns:
            Scalars by name, which are summed and minimised.
        """

    def after_step(self, measured: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Update the state of the objective after a training step.

        Args:
            measured: terms of both networks, averaged over processes.

        Returns:
            Scalars to log, by name.
        """
        return {}

    def after_epoch(self) -> dict[str, Tensor]:
        """Update the state of the objective after an epoch.

        Returns:
            Scalars to log, by name.
        """
        return {}

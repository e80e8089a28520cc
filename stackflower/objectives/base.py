"""Adversarial objectives: which verdicts a discriminator should give, and which a generator wants.

An objective is handed a critic, any callable from images and a list of texts to a list of verdicts, and returns named
terms to be minimised. It never calls backward.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar, NamedTuple

from torch import Tensor, nn

from stackflower.stages.base import Critic, Text


class Pairs(NamedTuple):
    """What a discriminator is shown in a step."""

    real: Tensor  # (N, 3, R, R), photographs
    fake: Tensor  # (N, 3, R, R), drawn for `text`, detached
    text: Text  # what `real` shows
    wrong: Text | None  # what `real` does not show; None where an objective uses no mismatched pairs
    drawn: Text  # what `fake` was asked to show


class Objective(nn.Module, ABC):
    """Base of all objectives; a Module so that state of its own (buffers) is saved with it."""

    reads: ClassVar[str] = "logit"
    mismatched: bool = True  # whether it wants wrong pairs
    unbounded: ClassVar[bool] = (
        False  # whether the discriminator's loss falls for ever unless a penalty bounds its slope
    )
    converges: ClassVar[bool] = False  # whether `after_step` measures "convergence", which a plateau schedule follows

    @abstractmethod
    def discriminator_terms(self, critic: Critic, pairs: Pairs) -> dict[str, Tensor]:
        """Scalar losses of the discriminator."""

    @abstractmethod
    def generator_terms(self, critic: Critic, fake: Tensor, text: Text) -> dict[str, Tensor]:
        """Scalar losses of the generator, for images drawn for `text`."""

    def after_step(self, measured: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Update own state from the step's terms (averaged over processes); return measures for the log."""
        return {}

    def after_epoch(self) -> dict[str, Tensor]:
        """Update own state after a pass over the pictures; return measures for the log."""
        return {}

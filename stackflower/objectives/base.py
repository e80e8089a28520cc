"""The base class of adversarial objectives: the losses of the discriminator and of the generator.

An objective is handed a critic, any callable from images and a list of texts to a list of verdicts, and returns named terms to be
minimised. It never calls backward.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar, NamedTuple

from torch import Tensor, nn

from stackflower.stages.base import Critic, Text


class Pairs(NamedTuple):
    """The image-text pairs of a discriminator step."""

    real: Tensor  # (N, 3, R, R)
    fake: Tensor  # (N, 3, R, R), generated for `fake_text`, detached
    text: Text  # of `real`
    negative_text: Text | None  # does not match `real`; None where an objective uses no mismatched pairs
    fake_text: Text  # of `fake`


class Objective(nn.Module, ABC):
    """Base of all objectives; a Module so that state of its own (buffers) is saved with it."""

    score_type: ClassVar[str] = "logit"  # the scores it works on, "logit" or "energy"
    mismatched: bool = True  # whether it uses mismatched pairs
    needs_gradient_penalty: ClassVar[bool] = False  # whether the discriminator's loss has no lower bound without one
    converges: ClassVar[bool] = False  # whether `after_step` gives "convergence", which a plateau schedule follows

    @abstractmethod
    def discriminator_terms(self, critic: Critic, pairs: Pairs) -> dict[str, Tensor]:
        """Scalar losses of the discriminator."""

    @abstractmethod
    def generator_terms(self, critic: Critic, fake: Tensor, text: Text) -> dict[str, Tensor]:
        """Scalar losses of the generator, for images `fake` generated for `text`."""

    def after_step(self, measured: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Update its state from the terms of the step (both networks', averaged over processes); return measures for the log."""
        return {}

    def after_epoch(self) -> dict[str, Tensor]:
        """Update its state after a pass over the images; return measures for the log."""
        return {}

"""The base class of adversarial objectives: the losses of the discriminator and of the generator.

An objective is handed a critic, any callable from images and a list of texts to a list of verdicts, and returns named
terms to be minimised. It never calls backward.
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
    """The image-text pairs of a step, of the discriminator's and of the generator's."""

    real: Tensor  # (N, 3, R, R)
    fake: Tensor  # (N, 3, R, R), generated for `fake_text`; the discriminator's step leaves its gradient alone
    text: Text  # of `real`
    negative_text: Text | None  # does not match `real`; None where an objective uses no mismatched pairs
    fake_text: Text  # of `fake`
    latents: int = 1  # neighbours of `fake` that are generated for the text of the first of their `real` images

    def align_with_fake(self, scores: Tensor) -> Tensor:
        """Of scores (N, …) of `real`, for each generated image the one of the real image whose text it was generated
        for."""
        if self.latents == 1:
            return scores
        return scores[:: self.latents].repeat_interleave(self.latents, 0)


def average_over_heads(loss: Callable[[Tensor], Tensor], scores: Scores) -> Tensor:
    """A loss of the scores of each head, averaged over heads, so that a head with many patches counts no more than one
    with few."""
    losses = [loss(head) for head in split_heads(scores)]
    return losses[0] if len(losses) == 1 else torch.stack(losses).mean()


class Objective(Declared, nn.Module, ABC):
    """Base of all objectives; a Module so that state of its own (buffers) is saved with it."""

    requires: ClassVar[Requirements] = (
        Requirement("logit scores", of="discriminator", why="works on logit scores, and {other} gives {offered}"),
    )

    mismatched: bool = True  # whether it uses mismatched pairs
    relativistic: ClassVar[bool] = False  # whether it compares each generated image with a real one of the same text

    @abstractmethod
    def discriminator_terms(self, critic: Critic, pairs: Pairs) -> dict[str, Tensor]:
        """Scalar losses of the discriminator."""

    @abstractmethod
    def generator_terms(self, critic: Critic, pairs: Pairs) -> dict[str, Tensor]:
        """Scalar losses of the generator, whose gradient `pairs.fake` carries; `pairs.negative_text` is None."""

    def after_step(self, measured: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Update its state from the terms of the step (both networks', averaged over processes); return measures for
        the log."""
        return {}

    def after_epoch(self) -> dict[str, Tensor]:
        """Update its state after a pass over the images; return measures for the log."""
        return {}

"""Adversarial objectives: which verdicts a discriminator should give, and which a generator wants.

An objective is handed a critic, any callable from images and a list of texts to a list of verdicts, and returns named
terms to be minimised. It never calls backward.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stackflower.registry import register
from stackflower.stages.base import Text, Verdict

Critic = Callable[[Tensor, Sequence[Text]], list[Verdict]]


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
    mismatched: ClassVar[bool] = True  # whether it wants wrong pairs

    @abstractmethod
    def discriminator_terms(self, critic: Critic, pairs: Pairs) -> dict[str, Tensor]:
        """Scalar losses of the discriminator."""

    @abstractmethod
    def generator_terms(self, critic: Critic, fake: Tensor, text: Text) -> dict[str, Tensor]:
        """Scalar losses of the generator, for images drawn for `text`."""

    def after_step(self, measured: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Update own state from the step's terms (averaged over processes); return measures for the log."""
        return {}


class MatchingAware(Objective):
    """GAN-CLS's weighing (Reed et al. 2016, algorithm 1): real − ½(wrong + fake), for any way of scoring a logit.

    A subclass says what loss a logit has when the truth is real, fake, or asked to seem real. A discriminator that also
    judges without text gets the same terms for those verdicts.
    """

    @abstractmethod
    def real(self, logits: Tensor) -> Tensor:
        """Loss of the discriminator's logits (N,) for pairs that are real and match."""

    @abstractmethod
    def fake(self, logits: Tensor) -> Tensor:
        """Loss of the discriminator's logits (N,) for drawn or mismatched pairs."""

    @abstractmethod
    def fool(self, logits: Tensor) -> Tensor:
        """Loss of the generator's logits (N,)."""

    def discriminator_terms(self, critic: Critic, pairs: Pairs) -> dict[str, Tensor]:
        share = 1.0 if pairs.wrong is None else 0.5
        shown, *mismatched = critic(pairs.real, [pairs.text] if pairs.wrong is None else [pairs.text, pairs.wrong])
        (drawn,) = critic(pairs.fake, [pairs.drawn])
        terms = {"real": self.real(shown.match), "fake": share * self.fake(drawn.match)}
        if mismatched:
            terms["wrong"] = share * self.fake(mismatched[0].match)
        if shown.real is not None and drawn.real is not None:
            terms |= {"real_plain": self.real(shown.real), "fake_plain": self.fake(drawn.real)}
        return terms

    def generator_terms(self, critic: Critic, fake: Tensor, text: Text) -> dict[str, Tensor]:
        (drawn,) = critic(fake, [text])
        terms = {"fool": self.fool(drawn.match)}
        if drawn.real is not None:
            terms["fool_plain"] = self.fool(drawn.real)
        return terms


@register("objective", "bce")
class BinaryCrossEntropy(MatchingAware):
    """The minimax game with the non-saturating generator loss (Goodfellow et al. 2014), on logits.

    Args:
        real_label: target of real pairs; 0.9 is one-sided smoothing (Salimans et al. 2016).
        fake_label: target of drawn and mismatched pairs; 0.1 smooths the other side too.
    """

    def __init__(self, *, real_label: float = 1.0, fake_label: float = 0.0):
        super().__init__()
        self.real_label, self.fake_label = real_label, fake_label

    @staticmethod
    def _loss(logits: Tensor, label: float) -> Tensor:
        return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, label))

    def real(self, logits: Tensor) -> Tensor:
        return self._loss(logits, self.real_label)

    def fake(self, logits: Tensor) -> Tensor:
        return self._loss(logits, self.fake_label)

    def fool(self, logits: Tensor) -> Tensor:
        return self._loss(logits, self.real_label)


@register("objective", "hinge")
class Hinge(MatchingAware):
    """Hinge loss (Lim & Ye 2017; Miyato et al. 2018): real pairs above 1, others below −1; the generator maximises."""

    def real(self, logits: Tensor) -> Tensor:
        return F.relu(1 - logits).mean()

    def fake(self, logits: Tensor) -> Tensor:
        return F.relu(1 + logits).mean()

    def fool(self, logits: Tensor) -> Tensor:
        return -logits.mean()

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

from stackflower.ranges import Share, Weight
from stackflower.registry import register
from stackflower.stages.base import Text, Verdict
from stackflower.stages.layers import gathered, world

Critic = Callable[[Tensor, Sequence[Text]], list[Verdict]]


class Pairs(NamedTuple):
    """What a discriminator is shown in a step."""

    real: Tensor  # (N, 3, R, R), photographs
    fake: Tensor  # (N, 3, R, R), drawn for `text`, detached
    text: Text  # what `real` shows
    wrong: Text | None  # what `real` does not show; None where an objective uses no mismatched pairs
    drawn: Text  # what `fake` was asked to show


def contrast(alike: Tensor, own: Tensor, label: Tensor | None = None, wrong: Tensor | None = None) -> Tensor:
    """Cross-entropy of finding each image's own text among the batch's (Zhang et al. 2021, XMC-GAN, equation 4).

    Args:
        alike: (N, M) logits of image i and text j.
        own: (N,) the column of each image's own text.
        label: (M,) class of each text; another text of the image's class is left out, being no wrong answer.
        wrong: (N,) logits of image i and a text that is known not to match it, one more wrong answer.
    """
    if label is not None:
        same = label[own][:, None] == label
        alike = alike.masked_fill(same.scatter(1, own[:, None], False), -torch.inf)
    if wrong is not None:
        alike = torch.cat([alike, wrong[:, None]], 1)
    return F.cross_entropy(alike, own)


def _diagonal(alike: Tensor, own: Tensor) -> Tensor:
    return alike.gather(1, own[:, None])[:, 0]


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


class MatchingAware(Objective):
    """GAN-CLS's weighing (Reed et al. 2016, algorithm 1): real − ½(wrong + fake), for any way of scoring a logit.

    A subclass says what loss a logit has when the truth is real, fake, or asked to seem real. A discriminator that also
    judges without text gets the same terms for those verdicts; one that compares each image with every text of the
    batch gets the contrast, from real images for itself and from drawn ones for the generator.

    Args:
        contrast: weight of that term for the discriminator.
        generator_contrast: the same for the generator; the less, the more its noises differ.
    """

    def __init__(self, *, contrast: Weight = 1.0, generator_contrast: Weight = 1.0):
        super().__init__()
        self.contrast, self.generator_contrast = contrast, generator_contrast

    @abstractmethod
    def real(self, logits: Tensor) -> Tensor:
        """Loss of the discriminator's logits (N,) for pairs that are real and match."""

    @abstractmethod
    def fake(self, logits: Tensor) -> Tensor:
        """Loss of the discriminator's logits (N,) for drawn or mismatched pairs."""

    @abstractmethod
    def fool(self, logits: Tensor) -> Tensor:
        """Loss of the generator's logits (N,)."""

    @staticmethod
    def _contrast(weight: float, verdict: Verdict, text: Text, *mismatched: Verdict) -> dict[str, Tensor]:
        if verdict.alike is None:
            return {}
        own = torch.arange(len(verdict.alike), device=verdict.alike.device) + world()[0] * len(verdict.alike)
        label = None if text.label is None else gathered(text.label)
        wrong = [_diagonal(other.alike, own) for other in mismatched if other.alike is not None]
        return {"contrast": weight * contrast(verdict.alike, own, label, *wrong)}

    def discriminator_terms(self, critic: Critic, pairs: Pairs) -> dict[str, Tensor]:
        share = 1.0 if pairs.wrong is None else 0.5
        shown, *mismatched = critic(pairs.real, [pairs.text] if pairs.wrong is None else [pairs.text, pairs.wrong])
        (drawn,) = critic(pairs.fake, [pairs.drawn])
        terms = {"real": self.real(shown.match), "fake": share * self.fake(drawn.match)}
        if mismatched:
            terms["wrong"] = share * self.fake(mismatched[0].match)
        terms |= self._contrast(self.contrast, shown, pairs.text, *mismatched)
        if shown.real is not None and drawn.real is not None:
            terms |= {"real_plain": self.real(shown.real), "fake_plain": self.fake(drawn.real)}
        return terms

    def generator_terms(self, critic: Critic, fake: Tensor, text: Text) -> dict[str, Tensor]:
        (drawn,) = critic(fake, [text])
        terms = {"fool": self.fool(drawn.match), **self._contrast(self.generator_contrast, drawn, text)}
        if drawn.real is not None:
            terms["fool_plain"] = self.fool(drawn.real)
        return terms


@register("objective", "bce")
class BinaryCrossEntropy(MatchingAware):
    """The minimax game with the non-saturating generator loss (Goodfellow et al. 2014), on logits.

    Args:
        real_label: target of real pairs; 0.9 is one-sided smoothing (Salimans et al. 2016).
        fake_label: target of drawn and mismatched pairs; 0.1 smooths the other side too.
        contrast, generator_contrast: weights of the contrast term, where the discriminator gives one.
    """

    def __init__(
        self,
        *,
        real_label: Share = 1.0,
        fake_label: Share = 0.0,
        contrast: Weight = 1.0,
        generator_contrast: Weight = 1.0,
    ):
        super().__init__(contrast=contrast, generator_contrast=generator_contrast)
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
    """Hinge loss (Lim & Ye 2017; Miyato et al. 2018): real pairs above 1, others below −1; the generator maximises.

    Args:
        contrast, generator_contrast: weights of the contrast term, where the discriminator gives one.
    """

    def __init__(self, *, contrast: Weight = 1.0, generator_contrast: Weight = 1.0):
        super().__init__(contrast=contrast, generator_contrast=generator_contrast)

    def real(self, logits: Tensor) -> Tensor:
        return F.relu(1 - logits).mean()

    def fake(self, logits: Tensor) -> Tensor:
        return F.relu(1 + logits).mean()

    def fool(self, logits: Tensor) -> Tensor:
        return -logits.mean()


@register("objective", "least-squares")
class LeastSquares(MatchingAware):
    """Least-squares GAN (Mao et al. 2017, equation 9): half the squared distance of a logit from its label.

    Args:
        real_label: b, and what the generator wants (c).
        fake_label: a, for drawn and mismatched pairs.
        contrast, generator_contrast: weights of the contrast term, where the discriminator gives one.
    """

    def __init__(
        self,
        *,
        real_label: float = 1.0,
        fake_label: float = 0.0,
        contrast: Weight = 1.0,
        generator_contrast: Weight = 1.0,
    ):
        super().__init__(contrast=contrast, generator_contrast=generator_contrast)
        self.real_label, self.fake_label = real_label, fake_label

    def real(self, logits: Tensor) -> Tensor:
        return 0.5 * (logits - self.real_label).square().mean()

    def fake(self, logits: Tensor) -> Tensor:
        return 0.5 * (logits - self.fake_label).square().mean()

    def fool(self, logits: Tensor) -> Tensor:
        return self.real(logits)


@register("objective", "wasserstein")
class Wasserstein(MatchingAware):
    """Wasserstein distance by its dual (Arjovsky et al. 2017, equation 2): the critic's mean on real less that on drawn pairs.

    The critic must be kept from growing without bound: give it a penalty such as `--penalty gradient`.

    Args:
        mismatched: also push mismatched pairs down, at half the weight, as GAN-CLS does.
        contrast, generator_contrast: weights of the contrast term, where the discriminator gives one.
    """

    unbounded = True

    def __init__(self, *, mismatched: bool = False, contrast: Weight = 1.0, generator_contrast: Weight = 1.0):
        super().__init__(contrast=contrast, generator_contrast=generator_contrast)
        self.mismatched = mismatched

    def real(self, logits: Tensor) -> Tensor:
        return -logits.mean()

    def fake(self, logits: Tensor) -> Tensor:
        return logits.mean()

    def fool(self, logits: Tensor) -> Tensor:
        return -logits.mean()

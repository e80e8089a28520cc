"""GAN-CLS's weighing of real, mismatched and fake pairs."""

from __future__ import annotations

from abc import abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor

from stackflower.objectives.base import Objective, Pairs
from stackflower.options import Weight
from stackflower.stages.base import Critic, Text, Verdict
from stackflower.utils.distributed import gathered, world


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

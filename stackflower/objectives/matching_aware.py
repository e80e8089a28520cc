"""The loss of GAN-CLS (Reed et al. 2016) over real, mismatched and fake pairs, for any loss of a logit."""

from __future__ import annotations

from abc import abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor

from stackflower.objectives.base import Objective, Pairs
from stackflower.options import Weight
from stackflower.stages.base import Critic, Text, Verdict
from stackflower.utils.distributed import gathered, world


def contrast(similarity: Tensor, own: Tensor, label: Tensor | None = None, negative: Tensor | None = None) -> Tensor:
    """Cross-entropy of finding each image's own text among the batch's (Zhang et al. 2021, XMC-GAN, equation 4).

    Args:
        similarity: (N, M) logits of image i and text j.
        own: (N,) the column of each image's own text.
        label: (M,) class of each text; other texts of the image's class are left out, as they may match it.
        negative: (N,) logits of image i and a text that is known not to match it, as one more column.
    """
    if label is not None:
        same = label[own][:, None] == label
        similarity = similarity.masked_fill(same.scatter(1, own[:, None], False), -torch.inf)
    if negative is not None:
        similarity = torch.cat([similarity, negative[:, None]], 1)
    return F.cross_entropy(similarity, own)


def own_similarity(similarity: Tensor, own: Tensor) -> Tensor:
    """Of logits (N, M), those of each image and the text of its own row (N,)."""
    return similarity.gather(1, own[:, None])[:, 0]


class MatchingAware(Objective):
    """GAN-CLS's loss (Reed et al. 2016, algorithm 1): real − ½(mismatched + fake).

    A subclass defines the loss of a logit for real pairs, for fake pairs, and for the generator. A discriminator that also judges
    images without text gets the same terms for those scores; one that compares each image with every text of the batch gets the
    contrast, of real images for the discriminator and of generated ones for the generator.

    Args:
        contrast: weight of that term for the discriminator.
        generator_contrast: the same for the generator; the less, the more images of different latents differ.
    """

    def __init__(self, *, contrast: Weight = 1.0, generator_contrast: Weight = 1.0):
        super().__init__()
        self.contrast, self.generator_contrast = contrast, generator_contrast

    @abstractmethod
    def real(self, logits: Tensor) -> Tensor:
        """The discriminator's loss of logits (N,) of real, matching pairs."""

    @abstractmethod
    def fake(self, logits: Tensor) -> Tensor:
        """The discriminator's loss of logits (N,) of fake or mismatched pairs."""

    @abstractmethod
    def generator_loss(self, logits: Tensor) -> Tensor:
        """The generator's loss of logits (N,) of its pairs."""

    @staticmethod
    def _contrast(weight: float, verdict: Verdict, text: Text, *mismatched: Verdict) -> dict[str, Tensor]:
        if verdict.similarity is None:
            return {}
        rows = len(verdict.similarity)
        own = torch.arange(rows, device=verdict.similarity.device) + world()[0] * rows
        label = None if text.label is None else gathered(text.label)
        negatives = [own_similarity(one.similarity, own) for one in mismatched if one.similarity is not None]
        return {"contrast": weight * contrast(verdict.similarity, own, label, *negatives)}

    def discriminator_terms(self, critic: Critic, pairs: Pairs) -> dict[str, Tensor]:
        share = 1.0 if pairs.negative_text is None else 0.5
        texts = [pairs.text] if pairs.negative_text is None else [pairs.text, pairs.negative_text]
        real, *mismatched = critic(pairs.real, texts)
        (fake,) = critic(pairs.fake, [pairs.fake_text])
        terms = {"real": self.real(real.match), "fake": share * self.fake(fake.match)}
        if mismatched:
            terms["negative"] = share * self.fake(mismatched[0].match)
        terms |= self._contrast(self.contrast, real, pairs.text, *mismatched)
        if real.real is not None and fake.real is not None:
            terms |= {"real_unconditional": self.real(real.real), "fake_unconditional": self.fake(fake.real)}
        return terms

    def generator_terms(self, critic: Critic, fake: Tensor, text: Text) -> dict[str, Tensor]:
        (verdict,) = critic(fake, [text])
        terms = {"adversarial": self.generator_loss(verdict.match)}
        terms |= self._contrast(self.generator_contrast, verdict, text)
        if verdict.real is not None:
            terms["adversarial_unconditional"] = self.generator_loss(verdict.real)
        return terms

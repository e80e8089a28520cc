"""The contrast of an image with all texts of its batch, a term that several objectives add."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from stackflower.declarations import Offers
from stackflower.objectives.base import Objective
from stackflower.options import Weight
from stackflower.stages.base import Text, Verdict
from stackflower.utils.distributed import gathered, world


def compute_contrastive_loss(
    similarity: Tensor, own: Tensor, label: Tensor | None = None, negative: Tensor | None = None
) -> Tensor:
    """Cross-entropy of finding each image's own text among the batch's and others (Zhang et al. 2021, XMC-GAN, equation
    4).

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


def select_own_similarity(similarity: Tensor, own: Tensor) -> Tensor:
    """Of logits (N, M), those of each image and the text of its own row (N,)."""
    return similarity.gather(1, own[:, None])[:, 0]


class Contrastive(Objective):
    """Base of objectives that add the contrast where the discriminator compares each image with every text of the
    batch: of real images for the discriminator and of generated ones for the generator.

    Args:
        contrast: weight of that term for the discriminator.
        generator_contrast: the same for the generator; the less, the more images of different latents differ.
    """

    offers: ClassVar[Offers] = ("contrast",)

    def __init__(self, *, contrast: Weight = 1.0, generator_contrast: Weight = 1.0):
        super().__init__()
        self.contrast, self.generator_contrast = contrast, generator_contrast

    @staticmethod
    def compute_contrast_term(weight: float, verdict: Verdict, text: Text, *mismatched: Verdict) -> dict[str, Tensor]:
        """The weighted term "contrast" of a verdict against `text`; none where the verdict has no similarities."""
        if verdict.similarity is None:
            return {}
        rows = len(verdict.similarity)
        own = torch.arange(rows, device=verdict.similarity.device) + world()[0] * rows
        label = None if text.label is None else gathered(text.label)
        if label is not None and text.others is not None:
            label = torch.cat([label, text.others.label])
        negatives = [select_own_similarity(one.similarity, own) for one in mismatched if one.similarity is not None]
        return {"contrast": weight * compute_contrastive_loss(verdict.similarity, own, label, *negatives)}

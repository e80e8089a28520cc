"""Contrastive loss between each image and all texts of the batch, a term that several objectives add."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from stackflower.declarations import Offers
from stackflower.objectives.base import Objective
from stackflower.options import Weight
from stackflower.stages.base import Text, Verdict
from stackflower.utils.distributed import gather, get_rank_and_size


def compute_contrastive_loss(
    similarity: Tensor, columns: Tensor, label: Tensor | None = None, negative: Tensor | None = None
) -> Tensor:
    """Compute the cross-entropy of identifying each image's own text (Zhang et al. 2021, XMC-GAN, eq. 4).

    Args:
        similarity: logits of image i and text j, `(N, M)`.
        columns: column of each image's own text, `(N,)`.
        label: class of each text, `(M,)`. Other texts of the image's class are excluded, because they may match it.
        negative: logits of each image and a text known not to match it, `(N,)`; added as one more column.

    Returns:
        The mean over images, a scalar.
    """
    if label is not None:
        same = label[columns][:, None] == label
        similarity = similarity.masked_fill(same.scatter(1, columns[:, None], False), -torch.inf)
    if negative is not None:
        similarity = torch.cat([similarity, negative[:, None]], 1)
    return F.cross_entropy(similarity, columns)


def select_own_similarity(similarity: Tensor, columns: Tensor) -> Tensor:
    """Select the logit of each image and its own text, `(N,)`, from logits `(N, M)`."""
    return similarity.gather(1, columns[:, None])[:, 0]


class Contrastive(Objective):
    """Base class of objectives that add a contrastive term if the discriminator outputs `Verdict.similarity`.

    The term uses real images in the discriminator's step, and generated ones in the generator's.

    Args:
        contrast: weight of the term in the discriminator's loss.
        generator_contrast: weight of the term in the generator's loss; with lower weights, images of one caption
            differ more.
    """

    offers: ClassVar[Offers] = ("contrast",)

    def __init__(self, *, contrast: Weight = 1.0, generator_contrast: Weight = 1.0):
        super().__init__()
        self.contrast, self.generator_contrast = contrast, generator_contrast

    @staticmethod
    def compute_contrast_term(weight: float, verdict: Verdict, text: Text, *mismatched: Verdict) -> dict[str, Tensor]:
        """Compute the weighted term "contrast".

        Args:
            weight: weight of the term.
            verdict: scores of images against their own texts.
            text: texts of the images.
            mismatched: scores of the same images against texts that do not match them.

        Returns:
            The term by its name; empty if the verdict contains no similarities.
        """
        if verdict.similarity is None:
            return {}
        rows = len(verdict.similarity)
        columns = torch.arange(rows, device=verdict.similarity.device) + get_rank_and_size()[0] * rows
        label = None if text.label is None else gather(text.label)
        if label is not None and text.others is not None:
            label = torch.cat([label, text.others.label])
        negatives = [
            select_own_similarity(other.similarity, columns) for other in mismatched if other.similarity is not None
        ]
        return {"contrast": weight * compute_contrastive_loss(verdict.similarity, columns, label, *negatives)}

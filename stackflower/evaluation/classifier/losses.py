"""Losses of a domain classifier, for batches that may be mixed."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from stackflower.evaluation.classifier.augmentation import Mix
from stackflower.evaluation.classifier.heads import CaptionHead


def compute_class_loss(
    logits: Mapping[str, Tensor], targets: Mapping[str, Tensor], mix: Mix, smoothing: float = 0.0
) -> Tensor:
    """Compute the sum of the cross-entropies of all heads, each averaged over the images with a known value.

    Args:
        logits: `(n, values)` for each head, of the mixed images.
        targets: `(n,)` for each head, of the images before mixing; -1 if unknown.
        mix: weights and partners of the mixed images.
        smoothing: label smoothing.
    """
    losses = [torch.zeros((), device=mix.partner.device)]
    for name, values in logits.items():
        for weight, target in ((mix.share, targets[name]), (1 - mix.share, targets[name][mix.partner])):
            if weight:
                total = F.cross_entropy(values, target, label_smoothing=smoothing, ignore_index=-1, reduction="sum")
                losses.append(weight * total / (target >= 0).sum().clamp_min(1))
    return torch.stack(losses).sum()


def compute_caption_loss(
    head: CaptionHead, images: Tensor, embeddings: Tensor, label: Tensor | None, mix: Mix
) -> Tensor:
    """Compute the contrastive loss between the images and captions of a batch, in both directions.

    Other captions of an image's class are not negatives; both captions of a mixed image are positives.

    Args:
        head: the caption head.
        images: `(n, D)` vectors of the mixed images.
        embeddings: `(n, T)`, the embedding of one caption per image before mixing.
        label: `(n,)` classes of the images before mixing, -1 if unknown; or None.
        mix: weights and partners of the mixed images.
    """
    cosine = images @ head.project_captions(embeddings).T * head.log_scale.exp()
    row = torch.arange(len(images), device=images.device)
    if label is not None:
        same_class = (label[:, None] == label) | (label[mix.partner][:, None] == label)
        positive = (row[:, None] == row) | (mix.partner[:, None] == row)
        cosine = cosine.masked_fill(same_class & (label >= 0) & ~positive, -1e4)
    losses = [
        weight * (F.cross_entropy(cosine, order) + F.cross_entropy(cosine.T, order.argsort()))
        for weight, order in ((mix.share, row), (1 - mix.share, mix.partner))
        if weight
    ]
    return torch.stack(losses).sum()

"""Similarities of images and texts, the input of the contrastive loss."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stackflower.stages.base import Text
from stackflower.utils.distributed import gather

TEMPERATURE = 0.1


def compute_similarities(image_key: Tensor, text_key: nn.Module, text: Text) -> Tensor:
    """Compute the similarity of each image and each text of the batch (Zhang et al. 2021, XMC-GAN, eq. 3).

    Call this in training only: it gathers the texts over processes, and would deadlock at inference, where processes
    make different numbers of calls.

    Args:
        image_key: keys of the images, `(N, K)`.
        text_key: module from text embeddings `(…, T)` to keys `(…, K)`.
        text: the texts of the images.

    Returns:
        Logits `(N, M)`, cosines divided by the temperature. The M texts are those of the batch on all processes,
        followed by `text.others`.
    """
    text_keys = gather(text_key(text.embedding.to(image_key.dtype)).float())
    if text.others is not None:
        text_keys = torch.cat([text_keys, text_key(text.others.embedding.to(image_key.dtype)).float()])
    # a sum of products, because autocast would run a matmul in bf16, too coarse for the differences between logits
    return (F.normalize(image_key.float(), dim=1)[:, None] * F.normalize(text_keys, dim=1)).sum(2) / TEMPERATURE

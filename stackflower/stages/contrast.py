"""Similarities of images and texts, which discriminators contrast."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stackflower.stages.base import Text
from stackflower.utils.distributed import gathered

TEMPERATURE = 0.1


def compute_similarities(image_key: Tensor, text_key: nn.Module, text: Text) -> Tensor:
    """Logits (N, M) of image i and text j: cosines over a temperature (Zhang et al. 2021, XMC-GAN, equation 3).

    Only in training: texts are gathered over processes, which at inference make different numbers of calls and would wait forever.

    Args:
        image_key: (N, K).
        text_key: from embeddings (…, T) to keys (…, K).
        text: of the images, one each; those of the whole batch are compared, then `text.others`.
    """
    words = gathered(text_key(text.embedding.to(image_key.dtype)).float())
    if text.others is not None:
        words = torch.cat([words, text_key(text.others.embedding.to(image_key.dtype)).float()])
    # written as a sum, which autocast leaves in float32: the logits differ by less than bf16 resolves
    return (F.normalize(image_key.float(), dim=1)[:, None] * F.normalize(words, dim=1)).sum(2) / TEMPERATURE

"""Heads of the domain classifier: from features to logits, and to vectors that captions are compared with."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

VECTOR_DIM = 256  # of the vectors of images and captions
INITIAL_LOG_SCALE = 2.7  # of the cosines in the captions' loss


class ClassHeads(nn.ModuleList):
    """A linear layer for each head: features (N, F) to logits (N, values) by the head's name.

    Args:
        feature_dim: F.
        heads: for each head, the names of its values.
    """

    def __init__(self, feature_dim: int, heads: Mapping[str, tuple[str, ...]]):
        super().__init__(nn.Linear(feature_dim, len(values)) for values in heads.values())
        self.names = tuple(heads)

    def forward(self, features: Tensor) -> dict[str, Tensor]:
        return {name: layer(features).float() for name, layer in zip(self.names, self, strict=True)}


class CaptionHead(nn.Module):
    """Map images and captions to vectors of one space, by a linear layer each.

    Args:
        feature_dim: size of the image's features.
        text_dim: size of a caption's embedding.
    """

    def __init__(self, feature_dim: int, text_dim: int):
        super().__init__()
        self.image, self.text = nn.Linear(feature_dim, VECTOR_DIM), nn.Linear(text_dim, VECTOR_DIM)
        self.log_scale = nn.Parameter(torch.tensor(INITIAL_LOG_SCALE))

    def project_captions(self, embeddings: Tensor) -> Tensor:
        """Map embeddings (N, T) to vectors (N, D) of unit length."""
        return F.normalize(self.text(embeddings).float(), dim=1)

    def project_images(self, features: Tensor) -> Tensor:
        """Map features (N, F) to vectors (N, D) of unit length."""
        return F.normalize(self.image(features).float(), dim=1)

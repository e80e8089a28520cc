"""Heads of the domain classifier: from features to logits, and to vectors to compare with captions."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

VECTOR_DIM = 256  # size D of the vectors of images and captions
INITIAL_LOG_SCALE = 2.7  # logarithm of the initial scale of cosines in the caption loss


class ClassHeads(nn.ModuleList):
    """A linear layer per head, from features `(N, F)` to a dict of logits `(N, values)`.

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
    """Two linear layers that map images and captions to vectors in a common space.

    Args:
        feature_dim: size of the features of an image.
        text_dim: size of the embedding of a caption.
    """

    def __init__(self, feature_dim: int, text_dim: int):
        super().__init__()
        self.image, self.text = nn.Linear(feature_dim, VECTOR_DIM), nn.Linear(text_dim, VECTOR_DIM)
        self.log_scale = nn.Parameter(torch.tensor(INITIAL_LOG_SCALE))

    def project_captions(self, embeddings: Tensor) -> Tensor:
        """Map embeddings `(N, T)` to vectors `(N, D)` of unit length."""
        return F.normalize(self.text(embeddings).float(), dim=1)

    def project_images(self, features: Tensor) -> Tensor:
        """Map features `(N, F)` to vectors `(N, D)` of unit length."""
        return F.normalize(self.image(features).float(), dim=1)

"""What a caption encoder is."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor


class TextEncoder(ABC):
    """Captions to sentence embeddings (N, `dim`)."""

    dim: int

    @abstractmethod
    def encode(self, captions: Sequence[str]) -> Tensor:
        """Embeddings (N, dim), float32, each of unit length."""

    @abstractmethod
    def fingerprint(self) -> str:
        """What the embeddings depend on; the cache of embeddings is keyed by it."""

    def __call__(self, captions: Sequence[str]) -> Tensor:
        """Embeddings as the networks read them: scaled to unit root mean square, whatever `dim` is, so that a
        learning rate means the same for every encoder."""
        with torch.no_grad():
            return self.encode(captions) * math.sqrt(self.dim)

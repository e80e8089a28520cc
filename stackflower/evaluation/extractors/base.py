"""Feature extractors: the named classifiers that scores are computed with."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor


class Extracted(NamedTuple):
    """What an extractor says of images."""

    features: Tensor  # (N, F)
    logits: Tensor  # (N, K)
    heads: Mapping[str, Tensor]  # attribute → logits (N, values); empty for a plain classifier


class Extractor(ABC):
    """Images to features and logits by one fixed network."""

    attributes: Mapping[str, tuple[str, ...]] = {}  # attribute → its values, in the order of the logits

    @abstractmethod
    def describe(self) -> dict[str, object]:
        """Name, checksum of the weights, how images are resized: part of every score's protocol."""

    @abstractmethod
    def extract(self, images: Tensor) -> Extracted:
        """uint8 (n, 3, H, W) to features and logits."""

    @torch.inference_mode()
    def __call__(self, images: Tensor, batch_size: int = 200) -> Extracted:
        """The same for any number of images, in batches."""
        parts = [self.extract(part) for part in images.split(batch_size)]
        heads = {name: torch.cat([part.heads[name] for part in parts]) for name in parts[0].heads}
        return Extracted(torch.cat([p.features for p in parts]), torch.cat([p.logits for p in parts]), heads)


def checksum(path: Path) -> str:
    """First 16 hexadecimal digits of a file's SHA-256."""
    digest = hashlib.sha256()
    with path.open("rb") as handle:
        for chunk in iter(lambda: handle.read(1 << 20), b""):
            digest.update(chunk)
    return digest.hexdigest()[:16]

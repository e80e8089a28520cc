"""The base class of feature extractors: fixed networks that scores are computed with."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from stackflower.declarations import Declared
from stackflower.utils.checksum import compute_sha256


class Extracted(NamedTuple):
    """Outputs of an extractor for N images."""

    features: Tensor  # (N, F)
    logits: Tensor  # (N, K); K = 0 for a network without classes
    heads: Mapping[str, Tensor]  # attribute → logits (N, values); empty for a network without attributes
    vectors: Tensor  # (N, D) of unit length, in a common space with captions; D = 0 without such a space

    @classmethod
    def of(
        cls,
        features: Tensor,
        logits: Tensor | None = None,
        heads: Mapping[str, Tensor] | None = None,
        vectors: Tensor | None = None,
    ) -> Extracted:
        """Build the outputs of a network that lacks some outputs."""
        empty = features.new_zeros(len(features), 0)
        return cls(features, empty if logits is None else logits, heads or {}, empty if vectors is None else vectors)

    def map(self, function: Callable[[Tensor], Tensor]) -> Extracted:
        """Apply a function to every tensor."""
        heads = {name: function(values) for name, values in self.heads.items()}
        return Extracted(function(self.features), function(self.logits), heads, function(self.vectors))

    @classmethod
    def concatenate(cls, parts: Sequence[Extracted]) -> Extracted:
        """Concatenate the outputs of batches."""
        heads = {name: torch.cat([part.heads[name] for part in parts]) for name in parts[0].heads}
        features, logits, vectors = (
            torch.cat([getattr(part, name) for part in parts]) for name in ("features", "logits", "vectors")
        )
        return cls(features, logits, heads, vectors)

    def rows(self, index: Tensor | slice) -> Extracted:
        """Select the outputs of some images, in the order of `index` `(n,)`."""
        return self.map(lambda values: values[index])

    def cpu(self) -> Extracted:
        """Move to the CPU."""
        return self.map(lambda values: values.cpu())


class Extractor(Declared, ABC):
    """Base class of extractors, which compute features and logits of images with a fixed network."""

    attributes: Mapping[str, tuple[str, ...]] = {}  # attribute → its values, in the order of the logits
    family: str = ""  # `Features.family` of a pretrained network
    text_encoder: str = ""  # fingerprint of the text encoder that it was trained with, if it is the one of a DAMSM
    original: bool = False  # it is the 2015 Inception network: the distances are FID and KID
    device: torch.device = torch.device("cpu")

    @abstractmethod
    def describe(self) -> dict[str, object]:
        """Return protocol fields, reported with every score: name, checksum of the weights, resizing of images."""

    @abstractmethod
    def network(self) -> torch.nn.Module:
        """Return the network as one module."""

    @abstractmethod
    def extract(self, images: Tensor) -> Extracted:
        """Compute features and logits of images, uint8 `(n, 3, H, W)` on `device`."""

    def embed(self, captions: Sequence[str]) -> Tensor | None:
        """Embed captions in the space of `Extracted.vectors`.

        Returns:
            Vectors `(N, D)` on the CPU, or None for a network without such a space.
        """
        return None

    def to(self, device: torch.device | str) -> None:
        """Move to a device."""
        self.device = torch.device(device)
        self.network().to(self.device)

    @torch.inference_mode()
    def __call__(self, images: Tensor, batch_size: int = 200) -> Extracted:
        """Extract any number of images, on any device, in batches; the outputs are on the CPU."""
        parts = [self.extract(part.to(self.device)).cpu() for part in images.split(batch_size)]
        return Extracted.concatenate(parts)


def compute_checksum(path: Path) -> str:
    """Return the first 16 hexadecimal digits of a file's SHA-256."""
    return compute_sha256(path)[:16]

"""The base class of feature extractors: fixed networks from whose outputs scores are computed."""

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
    """The output of an extractor."""

    features: Tensor  # (N, F)
    logits: Tensor  # (N, K), K 0 for a network without classes
    heads: Mapping[str, Tensor]  # attribute → logits (N, values); empty for a plain classifier
    vectors: Tensor  # (N, D) of unit length in a space that captions have too; D 0 for a network without one

    @classmethod
    def of(
        cls,
        features: Tensor,
        logits: Tensor | None = None,
        heads: Mapping[str, Tensor] | None = None,
        vectors: Tensor | None = None,
    ) -> Extracted:
        """Build the outputs of a network that lacks some of them."""
        none = features.new_zeros(len(features), 0)
        return cls(features, none if logits is None else logits, heads or {}, none if vectors is None else vectors)

    def map(self, change: Callable[[Tensor], Tensor]) -> Extracted:
        """Every tensor changed."""
        heads = {name: change(values) for name, values in self.heads.items()}
        return Extracted(change(self.features), change(self.logits), heads, change(self.vectors))

    @classmethod
    def concatenate(cls, parts: Sequence[Extracted]) -> Extracted:
        """Concatenate outputs."""
        heads = {name: torch.cat([part.heads[name] for part in parts]) for name in parts[0].heads}
        features, logits, vectors = (
            torch.cat([getattr(part, name) for part in parts]) for name in ("features", "logits", "vectors")
        )
        return cls(features, logits, heads, vectors)

    def rows(self, index: Tensor | slice) -> Extracted:
        """Select the outputs of some images, in the order of `index` `(n,)`."""
        return self.map(lambda values: values[index])

    def cpu(self) -> Extracted:
        """On the CPU."""
        return self.map(lambda values: values.cpu())


class Extractor(Declared, ABC):
    """Base class of extractors, which compute features and logits of images with one fixed network."""

    attributes: Mapping[str, tuple[str, ...]] = {}  # attribute → its values, in the order of the logits
    family: str = ""  # of a pretrained network, as `Features.family`
    original: bool = False  # whether it is the 2015 Inception network, with which distances are called FID and KID
    device: torch.device = torch.device("cpu")

    @abstractmethod
    def describe(self) -> dict[str, object]:
        """Name, checksum of the weights, how images are resized: reported with every score."""

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
        """As `extract`, for any number of images on any device, in batches."""
        parts = [self.extract(part.to(self.device)).cpu() for part in images.split(batch_size)]
        return Extracted.concatenate(parts)


def checksum(path: Path) -> str:
    """First 16 hexadecimal digits of a file's SHA-256."""
    return compute_sha256(path)[:16]

"""The base class of feature extractors: fixed networks from whose outputs scores are computed."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor


class Extracted(NamedTuple):
    """The output of an extractor, on the CPU."""

    features: Tensor  # (N, F)
    logits: Tensor  # (N, K), K 0 for a network without classes
    heads: Mapping[str, Tensor]  # attribute → logits (N, values); empty for a plain classifier

    @classmethod
    def concatenate(cls, parts: Sequence[Extracted]) -> Extracted:
        """The parts, concatenated."""
        heads = {name: torch.cat([part.heads[name] for part in parts]) for name in parts[0].heads}
        return cls(torch.cat([p.features for p in parts]), torch.cat([p.logits for p in parts]), heads)

    def rows(self, index: Tensor) -> Extracted:
        """The outputs of some images, in the order of `index` (n,)."""
        heads = {name: values[index] for name, values in self.heads.items()}
        return Extracted(self.features[index], self.logits[index], heads)

    def cpu(self) -> Extracted:
        return Extracted(
            self.features.cpu(), self.logits.cpu(), {name: values.cpu() for name, values in self.heads.items()}
        )


class Extractor(ABC):
    """Images to features and logits by one fixed network."""

    attributes: Mapping[str, tuple[str, ...]] = {}  # attribute → its values, in the order of the logits
    family: str = ""  # of a pretrained network, as `Features.family`
    original: bool = False  # whether it is the 2015 Inception network, with which distances are called FID and KID
    device: torch.device = torch.device("cpu")

    @abstractmethod
    def describe(self) -> dict[str, object]:
        """Name, checksum of the weights, how images are resized: reported with every score."""

    @abstractmethod
    def network(self) -> torch.nn.Module:
        """The network, as one module."""

    @abstractmethod
    def extract(self, images: Tensor) -> Extracted:
        """uint8 (n, 3, H, W) on `device` to features and logits."""

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
    digest = hashlib.sha256()
    with path.open("rb") as handle:
        for chunk in iter(lambda: handle.read(1 << 20), b""):
            digest.update(chunk)
    return digest.hexdigest()[:16]

"""The base class of text encoders, and the splitting of captions into words."""

from __future__ import annotations

import hashlib
import math
import re
import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Container, Sequence
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from stackflower.declarations import Declared

WORD = re.compile(r"[^\W_]+|[^\w\s]", re.UNICODE)


def words_of(caption: str) -> list[str]:
    """A caption's words and punctuation marks, of any script, normalised by NFKC and case folding."""
    return WORD.findall(unicodedata.normalize("NFKC", caption).casefold())


def words_without(captions: Sequence[str], known: Container[str]) -> list[str]:
    """The words of captions, without punctuation marks, that are not known, each once, in order."""
    words = dict.fromkeys(word for caption in captions for word in words_of(caption))
    return [word for word in words if word not in known and re.search(r"\w", word)]


def digest_of(*tensors: Tensor) -> str:
    """A hash of the values of tensors, 16 hexadecimal digits."""
    digest = hashlib.blake2b(digest_size=8)
    for tensor in tensors:
        digest.update(tensor.detach().cpu().contiguous().float().numpy().tobytes())
    return digest.hexdigest()


class TextEncoder(Declared, ABC):
    """Captions to sentence embeddings (N, `dim`)."""

    dim: int
    on_host: ClassVar[bool] = False  # whether it needs no accelerator, and is cheap to copy to another process

    @property
    def learns(self) -> bool:
        """Whether it is trained together with the GAN (see `LearnedEncoder`); otherwise captions are encoded once."""
        return False

    @property
    def reads_all(self) -> bool:
        """Whether it is made from all training captions, as a vocabulary is, so that they can't be streamed."""
        return self.learns

    @abstractmethod
    def encode(self, captions: Sequence[str]) -> Tensor:
        """Embeddings (N, dim), float32, each of unit length."""

    @abstractmethod
    def fingerprint(self) -> str:
        """What the embeddings depend on; the cache of embeddings is keyed by it."""

    def fit(self, captions: Sequence[str]) -> None:  # most encoders need nothing
        """Fit to the training captions, such as by building a vocabulary; called once, before anything is encoded."""

    def unknown(self, captions: Sequence[str]) -> list[str]:
        """Words or tags of these captions that are to it as any other that it doesn't know, each once, in order."""
        return []

    def to(self, device: torch.device | str) -> None:
        """Move to a device."""

    def save(self, folder: Path) -> None:
        """Write to a run's folder what encoding needs besides the options: a vocabulary, weights, vectors."""

    def restore(self, folder: Path) -> None:
        """Read what `save` wrote. RunError names what is missing or damaged."""

    def __call__(self, captions: Sequence[str]) -> Tensor:
        """Embeddings (N, dim) as the networks take them: scaled to unit root mean square, whatever `dim` is, so that a
        learning rate suits every encoder."""
        with torch.no_grad():
            return self.encode(captions) * math.sqrt(self.dim)

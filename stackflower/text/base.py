"""Base class of text encoders, and splitting captions into words."""

from __future__ import annotations

import hashlib
import math
import re
import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from stackflower.declarations import Declared
from stackflower.errors import ConfigError
from stackflower.stages.base import Words
from stackflower.text.dropped import Dropped

WORD = re.compile(r"[^\W_]+|[^\w\s]", re.UNICODE)


def split_words(caption: str) -> list[str]:
    """Split a caption into words and punctuation marks, normalised by NFKC and case folding.

    Words are runs of letters and digits of any script.

    Example:
        >>> split_words("Yellow Flowers, no stem")
        ['yellow', 'flowers', ',', 'no', 'stem']
    """
    return WORD.findall(unicodedata.normalize("NFKC", caption).casefold())


def compute_digest(*tensors: Tensor) -> str:
    """Return a hash of the values of tensors: 16 hexadecimal digits."""
    digest = hashlib.blake2b(digest_size=8)
    for tensor in tensors:
        digest.update(tensor.detach().cpu().contiguous().float().numpy().tobytes())
    return digest.hexdigest()


class EncodedWords(NamedTuple):
    """Captions as sentences and as words."""

    sentence: Tensor  # (N, T), as `TextEncoder.encode` returns it
    words: Words  # with a root mean square of 1 per word
    texts: list[list[str]]  # the words of each caption, in the order of `words.vectors`


class Embedded(NamedTuple):
    """Captions as the networks expect them."""

    embedding: Tensor  # (N, T), with a root mean square of 1
    words: Words | None  # None unless requested


class TextEncoder(Declared, ABC):
    """Base class of text encoders, which turn captions into sentence embeddings ``(N, T)``.

    A subclass sets `dim` and defines `encode` and `fingerprint`. The other methods have defaults that suit an encoder
    without a vocabulary or files. An encoder of words also sets `has_words` and `word_dim`, offers ``"words"`` and
    defines `encode_words`.

    Attributes:
        dim: size T of an embedding.
        has_words: whether the encoder encodes words too.
        word_dim: size D of the vector of a word; 0 without words.
        on_host: whether the encoder runs on the CPU and is cheap to copy to another process.
        path_options: names of the options that are paths of local files or folders. A shared model keeps their last
            part only, because `save` writes what the encoder reads from them.

    Example:
        >>> import torch
        >>> from stackflower.text import TextEncoder
        >>> class LengthEncoder(TextEncoder):
        ...     dim = 2
        ...
        ...     def encode(self, captions):
        ...         lengths = torch.tensor([[len(caption), 1.0] for caption in captions])
        ...         return torch.nn.functional.normalize(lengths, dim=1)
        ...
        ...     def fingerprint(self):
        ...         return "length-1"
        >>> encoder = LengthEncoder()
        >>> encoder.encode(["a red flower", "a bird"]).shape
        torch.Size([2, 2])
        >>> encoder(["a bird"]).square().mean().sqrt().round(decimals=3)
        tensor(1.)
    """

    dim: int
    has_words: ClassVar[bool] = False
    word_dim: int = 0
    on_host: ClassVar[bool] = False
    path_options: ClassVar[tuple[str, ...]] = ()

    @property
    def learns(self) -> bool:
        """Whether the encoder is trained with the GAN (see `LearnedEncoder`); otherwise captions are encoded once."""
        return False

    @property
    def reads_all(self) -> bool:
        """Whether `fit` needs all training captions, for instance to build a vocabulary.

        Such an encoder can't be used with a stream of shards.
        """
        return self.learns

    @abstractmethod
    def encode(self, captions: Sequence[str]) -> Tensor:
        """Encode captions.

        Args:
            captions: N captions.

        Returns:
            Embeddings ``(N, dim)``, float32, each of unit length.

        Raises:
            DataError: a caption can't be encoded, by an encoder that does not accept every caption.
        """

    def encode_words(self, captions: Sequence[str]) -> EncodedWords:
        """Encode captions as sentences and as words.

        Args:
            captions: N captions.

        Returns:
            Sentences ``(N, dim)``, as `encode` returns them, words ``(N, L, word_dim)``, and the words as strings.

        Raises:
            ConfigError: the encoder has no words.
            DataError: a caption can't be encoded.
        """
        raise ConfigError(f"{type(self).__name__} encodes whole captions, not their words; use `text=ngram`.")

    @abstractmethod
    def fingerprint(self) -> str:
        """Return a string that changes whenever the embeddings of a caption or of its words do.

        It is the key of the embedding cache, and shows on resume whether the encoder has changed. Include the options,
        a version number of the code, and a digest of vocabulary and weights.
        """

    def fit(self, captions: Sequence[str]) -> None:  # most encoders need nothing
        """Prepare the encoder, for instance by building a vocabulary. Training calls it once, before `encode`.

        Args:
            captions: training captions; may be empty if `reads_all` is False.

        Raises:
            DataError: the captions or the encoder's files can't be used.
        """

    def find_dropped(self, captions: Sequence[str]) -> Dropped:
        """Find what the encoder drops from captions, such as words outside its vocabulary or beyond its maximum length.

        It is called after `fit` or `restore`, with up to all captions of a data set, and must not encode them. The
        default reports nothing, and the checks then compare embeddings (see `stackflower.text.checks`).

        Args:
            captions: distinct captions.

        Returns:
            What is dropped, and what is kept of each caption.
        """
        return Dropped()

    def to(self, device: torch.device | str) -> None:
        """Move the encoder to a device.

        Args:
            device: where `encode` computes.
        """

    def save(self, folder: Path) -> None:
        """Save what encoding needs in addition to the options: a vocabulary, weights or vectors.

        Args:
            folder: folder to write to; it exists.
        """

    def restore(self, folder: Path) -> None:
        """Load what `save` wrote.

        Args:
            folder: folder to read from.

        Raises:
            RunError: a file is missing or damaged.
        """

    def export(self, folder: Path, options: Mapping[str, Any]) -> dict[str, Any]:
        """Write what the encoder needs on another computer.

        Args:
            folder: folder to write to, which does not exist; it is created if something is written.
            options: options that the encoder was built with.

        Returns:
            The options that rebuild the encoder there, without local paths (see `import_options`).
        """
        folder.mkdir(parents=True)
        self.save(folder)
        if not any(folder.iterdir()):
            folder.rmdir()
        return {
            name: Path(str(value)).name if name in self.path_options and value is not None else value
            for name, value in options.items()
        }

    @classmethod
    def import_options(cls, folder: Path, options: Mapping[str, Any]) -> dict[str, Any]:
        """Return the options that rebuild an exported encoder, from those that `export` returned.

        Args:
            folder: folder that `export` wrote to; it does not exist if nothing was written.
            options: options in the record of the model.
        """
        return dict(options)

    def __call__(self, captions: Sequence[str]) -> Tensor:
        """Encode captions as the networks expect them.

        Args:
            captions: N captions.

        Returns:
            Embeddings ``(N, dim)``, float32, scaled to a root mean square of 1, so that one learning rate suits every
            encoder and `dim`.
        """
        with torch.no_grad():
            return self.encode(captions) * math.sqrt(self.dim)

    def embed_captions(self, captions: Sequence[str], words: bool = False) -> Embedded:
        """Encode captions as the networks expect them, with their words if requested.

        Args:
            captions: N captions.
            words: whether to encode the words too.
        """
        if not words:
            return Embedded(self(captions), None)
        with torch.no_grad():
            encoded = self.encode_words(captions)
        return Embedded(encoded.sentence * math.sqrt(self.dim), encoded.words)

"""Text encoders whose words have one vector each, whatever the rest of the caption."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from stackflower.stages.base import Words
from stackflower.stages.words import scale_vectors
from stackflower.text.base import EncodedWords, TextEncoder

PADDING = -1  # token


class WordwiseEncoder(TextEncoder):
    """Base class of encoders with one vector per word or tag.

    A subclass also defines `list_words` and `embed_words`.
    """

    has_words = True
    offers = ("words",)

    @abstractmethod
    def list_words(self, caption: str) -> list[str]:
        """Return the words of a caption that have a vector, in order; at least one.

        Raises:
            DataError: the caption has no such word, by an encoder that does not accept every caption.
        """

    @abstractmethod
    def embed_words(self, words: Sequence[str]) -> Tensor:
        """Return vectors ``(V, word_dim)`` of words that `list_words` returned, of any length."""

    def encode_words(self, captions: Sequence[str]) -> EncodedWords:
        texts = [self.list_words(caption) for caption in captions]
        words = WordTable(self, texts)(torch.arange(len(captions)))
        return EncodedWords(self.encode(captions), words, texts)


class WordTable:
    """The words of captions as numbers of the rows of one table.

    Args:
        encoder: text encoder.
        texts: words of each caption.
        device: device of the table.
    """

    def __init__(self, encoder: WordwiseEncoder, texts: Sequence[Sequence[str]], device: torch.device | str = "cpu"):
        rows: dict[str, int] = {}
        numbers = [torch.tensor([rows.setdefault(word, len(rows)) for word in words]) for words in texts]
        tokens = torch.nn.utils.rnn.pad_sequence(numbers, batch_first=True, padding_value=PADDING)
        self.tokens = tokens.to(torch.int32).to(device)
        self.vectors = scale_vectors(encoder.embed_words(list(rows))).to(device)

    def __call__(self, captions: Tensor) -> Words:
        """Return the words of the captions with the numbers ``(n,)``, padded to the longest of all captions."""
        tokens = self.tokens[captions]
        mask = tokens >= 0
        return Words(self.vectors[tokens.clamp_min(0)] * mask[..., None], mask)

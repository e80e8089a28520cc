"""Encode a long list of captions chunk by chunk, as they are needed."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from stackflower.stages.words import join_words
from stackflower.text.base import Embedded, TextEncoder

CAPTION_CHUNK = 1024  # number of captions that are encoded at a time


class CaptionChunks:
    """Captions that are encoded in chunks, of which the latest two are kept.

    Args:
        encoder: text encoder.
        captions: captions.
        words: whether to encode the words too.
    """

    def __init__(self, encoder: TextEncoder, captions: Sequence[str], words: bool):
        self.encoder, self.captions, self.words = encoder, captions, words
        self._encode = lru_cache(maxsize=2)(self._encode_chunk)

    def _encode_chunk(self, chunk: int) -> Embedded:
        captions = self.captions[chunk * CAPTION_CHUNK : (chunk + 1) * CAPTION_CHUNK]
        return self.encoder.embed_captions(list(captions), self.words)

    def embed(self, numbers: Tensor, device: torch.device) -> Embedded:
        """Return captions by number.

        Args:
            numbers: ascending numbers `(n,)`.
            device: device of the result.
        """
        chunks = numbers // CAPTION_CHUNK
        embeddings, words = [], []
        for chunk in chunks.unique().tolist():
            encoded, rows = self._encode(chunk), numbers[chunks == chunk] % CAPTION_CHUNK
            embeddings.append(encoded.embedding[rows])
            words += [] if encoded.words is None else [encoded.words.take(rows)]
        return Embedded(torch.cat(embeddings).to(device), join_words(words).to(device) if words else None)

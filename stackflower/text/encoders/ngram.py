"""The default text encoder: hashed n-grams, without download or training."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from stackflower.options import Count, Weight
from stackflower.registry import register
from stackflower.text.base import split_words
from stackflower.text.dropped import Dropped
from stackflower.text.wordwise import WordwiseEncoder

_ENGLISH_FUNCTION_WORDS = """
a an the this that these those it its is are was were be been has have having had does do there here which who whose
of on in at by to from for as into and or with while
"""
FUNCTION_WORDS = frozenset(_ENGLISH_FUNCTION_WORDS.split()) | frozenset(",.;:!?-'\"()")
"""English function words and punctuation, which describe nothing in an image.

"no", "not" and "without" change the meaning of a caption and are not included.
"""


@lru_cache(maxsize=200_000)
def _hash_feature(feature: str, dim: int) -> tuple[int, float]:
    """Return the position and the sign of a feature: signed feature hashing (Weinberger et al. 2009)."""
    code = zlib.crc32(feature.encode("utf-8", "surrogatepass"))
    return code % dim, 1.0 if zlib.adler32(feature.encode("utf-8", "surrogatepass")) % 251 < 125 else -1.0


@register("text", "ngram")
class NgramEncoder(WordwiseEncoder):
    """Signed hashes of words, word pairs up to `window` apart and character n-grams, scaled to unit length.

    Pairs encode which words belong together ("yellow center"). Character n-grams make related and misspelt words
    similar. English function words and punctuation get a small weight and form no pairs, so that long sentences are
    encoded as well as short ones. Captions may be in any script; they are normalised by NFKC and case folding. The
    vector of a word hashes the word and its character n-grams to 256 values.

    Args:
        dim: size T of the embedding: the number of hash positions.
        window: maximum distance between the two words of a pair.
        characters: weight of the character n-grams (3 to 5 characters), relative to words.
        function_words: weight of function words and punctuation, relative to other words.
    """

    on_host = True
    word_dim = 256

    def __init__(self, *, dim: Count = 1024, window: Count = 3, characters: Weight = 0.3, function_words: Weight = 0.1):
        self.dim, self.window, self.characters, self.function_words = dim, window, characters, function_words

    def fingerprint(self) -> str:
        return (
            f"ngram-3 dim={self.dim} window={self.window} characters={self.characters} "
            f"function_words={self.function_words}"
        )

    def find_dropped(self, captions: Sequence[str]) -> Dropped:
        """Return nothing: all words of any script are hashed. Hashes can collide, so embeddings are compared."""
        return Dropped("finds no word in", "Change these captions, or use a larger `text.dim`.")

    def _extract_features(self, words: Sequence[str]) -> Iterator[tuple[str, float]]:
        yield from ((word, self.function_words) for word in words if word in FUNCTION_WORDS)
        words = [word for word in words if word not in FUNCTION_WORDS]
        for position, word in enumerate(words):
            yield word, 1.0
            for distance, other in enumerate(words[position + 1 : position + 1 + self.window], 1):
                yield f"{word} {other}", 1.0 / distance
            yield from self._extract_characters(word)

    def _extract_characters(self, word: str) -> Iterator[tuple[str, float]]:
        if self.characters and word.isalnum():
            padded = f"<{word}>"
            grams = [padded[i : i + n] for n in (3, 4, 5) for i in range(len(padded) - n + 1)]
            for gram in grams:
                yield gram, self.characters / len(grams) ** 0.5

    def encode(self, captions: Sequence[str]) -> Tensor:
        return _hash_features([self._extract_features(split_words(caption)) for caption in captions], self.dim)

    def list_words(self, caption: str) -> list[str]:
        return split_words(caption) or [caption]

    def embed_words(self, words: Sequence[str]) -> Tensor:
        return _hash_features([[(word, 1.0), *self._extract_characters(word)] for word in words], self.word_dim)


def _hash_features(rows: Iterable[Iterable[tuple[str, float]]], dim: int) -> Tensor:
    """Hash weighted features to vectors of unit length.

    Args:
        rows: features and their weights, for each of N vectors.
        dim: size of a vector.

    Returns:
        Vectors ``(N, dim)``; zero without features.
    """
    vectors = []
    for features in rows:
        vector = np.zeros(dim, dtype=np.float32)
        hashed = [(*_hash_feature(feature, dim), weight) for feature, weight in features]
        if hashed:
            position, sign, weight = (np.array(column) for column in zip(*hashed, strict=True))
            np.add.at(vector, position, sign * weight)
        vectors.append(vector)
    table = np.stack(vectors) if vectors else np.zeros((0, dim), dtype=np.float32)
    norm = np.linalg.norm(table, axis=1, keepdims=True)
    return torch.from_numpy(table / np.maximum(norm, 1e-12))

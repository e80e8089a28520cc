"""The parts of captions that a text encoder drops and keeps."""

from __future__ import annotations

import unicodedata
from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

DEFAULT_REMEDY = "Change these captions, or use another encoder, such as `text=ngram`."
ZERO_WIDTH = frozenset("\ufe0e\ufe0f")  # variation selectors, which choose between two forms of an emoji


@lru_cache(maxsize=100_000)
def is_punctuation(word: str) -> bool:
    """Return whether a word from `split_words` is a punctuation mark or an invisible character.

    Letters and digits of any script, combining marks and symbols such as emoji are not.
    """
    if len(word) != 1:
        return False
    return word in ZERO_WIDTH or (word.isascii() and not word.isalnum()) or unicodedata.category(word)[0] in "PZC"


@dataclass
class Loss:
    """Parts of captions that an encoder drops for one reason.

    Attributes:
        noun: singular noun for the parts, such as "word".
        reason: why they are dropped, such as "outside its vocabulary".
        parts: distinct parts, in order of first use.
        captions: captions that lose some of them.
    """

    noun: str
    reason: str
    parts: dict[str, None] = field(default_factory=dict)
    captions: list[str] = field(default_factory=list)


class Dropped:
    """Record of the parts of captions that an encoder drops and keeps.

    An encoder calls `drop` for parts that it ignores, and `keep` once per caption, in order. If it never calls `keep`,
    the checks compare embeddings instead.

    Args:
        lacks: verb phrase before a list of entirely dropped captions, such as "knows no word of".
        remedy: advice for captions that can't be told apart, as a sentence.

    Attributes:
        losses: dropped parts by noun and reason.
        kept: value for the kept parts of each caption. Captions with equal values have the same embedding.
        empty: captions that are dropped entirely.
    """

    def __init__(self, lacks: str = "can represent nothing of", remedy: str = DEFAULT_REMEDY):
        self.lacks, self.remedy = lacks, remedy
        self.losses: dict[tuple[str, str], Loss] = {}
        self.kept: list[Hashable] = []
        self.empty: list[str] = []

    def drop(self, caption: str, noun: str, reason: str, parts: Collection[str]) -> None:
        """Record parts of a caption that the encoder ignores.

        Args:
            caption: caption.
            noun: singular noun for the parts, such as "word".
            reason: why they are dropped, such as "outside its vocabulary".
            parts: dropped parts; nothing is recorded if empty.
        """
        if parts:
            loss = self.losses.setdefault((noun, reason), Loss(noun, reason))
            loss.parts.update(dict.fromkeys(parts))
            loss.captions.append(caption)

    def keep(self, caption: str, kept: Hashable, empty: bool) -> None:
        """Record the kept parts of the next caption.

        Args:
            caption: caption.
            kept: value that two captions share only if they have the same embedding.
            empty: whether nothing that describes an image is kept.
        """
        self.kept.append(kept)
        if empty:
            self.empty.append(caption)

    def drop_unknown(self, caption: str, words: Sequence[str], vocabulary: Mapping[str, object]) -> bool:
        """Record the out-of-vocabulary words of a caption, except punctuation marks.

        Returns:
            Whether the caption has no known word or, if it consists of punctuation only, no known mark.
        """
        missing: list[str] = []
        known: Sequence[str] = words
        if not vocabulary.keys() >= set(words):
            missing = [word for word in words if word not in vocabulary and not is_punctuation(word)]
            known = [word for word in words if word in vocabulary]
            self.drop(caption, "word", "outside its vocabulary", missing)
        return all(map(is_punctuation, known)) and (bool(missing) or not known)

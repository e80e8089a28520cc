"""What a text encoder drops from captions, and what remains."""

from __future__ import annotations

import unicodedata
from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

DEFAULT_REMEDY = "Change these captions, or use another encoder, such as `text=ngram`."
ZERO_WIDTH = frozenset("\ufe0e\ufe0f")  # variation selectors, which choose between two forms of an emoji


@lru_cache(maxsize=100_000)
def is_punctuation(word: str) -> bool:
    """Return whether a word of `split_words` is a punctuation mark or invisible.

    Letters and digits of any script, combining marks and symbols such as emoji are not.
    """
    if len(word) != 1:
        return False
    return word in ZERO_WIDTH or (word.isascii() and not word.isalnum()) or unicodedata.category(word)[0] in "PZC"


@dataclass
class Loss:
    """Parts of captions that an encoder drops for one reason.

    Attributes:
        noun: what the parts are, in the singular, such as "word".
        reason: why they are dropped, such as "outside its vocabulary".
        parts: the different parts, in order of first use.
        captions: the captions that lose them.
    """

    noun: str
    reason: str
    parts: dict[str, None] = field(default_factory=dict)
    captions: list[str] = field(default_factory=list)


class Dropped:
    """What an encoder drops from each of a list of captions, and what it keeps.

    An encoder calls `drop` for the parts that it ignores, and `keep` once per caption, in order. Without a call of
    `keep`, the checks compare embeddings instead.

    Args:
        lacks: verb phrase that precedes the captions of which nothing is kept, such as "knows no word of".
        remedy: what to do about captions that are not told apart, as a sentence.

    Attributes:
        losses: what is dropped, by noun and reason.
        kept: what the encoder reads of each caption. Captions with equal values have the same embedding.
        empty: captions of which nothing is kept.
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
            noun: what the parts are, in the singular, such as "word".
            reason: why they are dropped, such as "outside its vocabulary".
            parts: dropped parts; if there are none, nothing is recorded.
        """
        if parts:
            loss = self.losses.setdefault((noun, reason), Loss(noun, reason))
            loss.parts.update(dict.fromkeys(parts))
            loss.captions.append(caption)

    def keep(self, caption: str, kept: Hashable, empty: bool) -> None:
        """Record what the encoder reads of the next caption.

        Args:
            caption: caption.
            kept: value that two captions share only if they have the same embedding.
            empty: whether nothing that describes an image is kept.
        """
        self.kept.append(kept)
        if empty:
            self.empty.append(caption)

    def drop_unknown(self, caption: str, words: Sequence[str], vocabulary: Mapping[str, object]) -> bool:
        """Record the words of a caption that are out of vocabulary; punctuation marks are ignored.

        Returns:
            Whether no word is known. A caption of nothing but punctuation needs one known mark.
        """
        missing: list[str] = []
        known: Sequence[str] = words
        if not vocabulary.keys() >= set(words):
            missing = [word for word in words if word not in vocabulary and not is_punctuation(word)]
            known = [word for word in words if word in vocabulary]
            self.drop(caption, "word", "outside its vocabulary", missing)
        return all(map(is_punctuation, known)) and (bool(missing) or not known)

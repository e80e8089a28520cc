"""Statistics of a prepared split: lengths of captions, classes, duplicates and near-empty captions."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from stackflower.data.prepared import Prepared

MIN_LETTERS = 3  # a caption with fewer letters is near-empty


@dataclass(frozen=True)
class Survey:
    """Counts of a split, and sentences about rows that deserve a look.

    Attributes:
        images: number of images.
        captions: number of captions.
        distinct_words: number of distinct words.
        lengths: number of captions by their number of words.
        classes: number of images by class.
        near_empty: a sentence for each caption that has hardly a letter.
        duplicates: a sentence for each image with the same pixels as an earlier one.
        left_out: a sentence for each row or image that can't be used.
        digests: digests of the pixels of the images.
    """

    images: int
    captions: int
    distinct_words: int
    lengths: dict[int, int]
    classes: dict[str, int]
    near_empty: list[str]
    duplicates: list[str]
    left_out: list[str]
    digests: frozenset[bytes]

    @property
    def sentences(self) -> list[str]:
        """What the user should know, a sentence each."""
        sentences = []
        if self.near_empty:
            sentences.append(f"{len(self.near_empty):,} captions are near-empty. The first: {self.near_empty[0]}")
        if self.duplicates:
            sentences.append(f"{len(self.duplicates):,} images are duplicates. The first: {self.duplicates[0]}")
        if self.left_out:
            sentences.append(f"{len(self.left_out):,} rows or images are left out. The first: {self.left_out[0]}")
        return sentences


def survey(data: Prepared) -> Survey:
    """Survey every image and caption of a split."""
    rows, words, lengths = data.rows, set[str](), Counter[int]()
    names = rows.files or [f"image {position}" for position in range(len(rows))]
    near_empty = []
    for name, captions in zip(names, rows.captions, strict=True):
        for caption in captions:
            caption_words = caption.lower().split()
            words.update(caption_words)
            lengths[len(caption_words)] += 1
            if _is_near_empty(caption):
                near_empty.append(f"{name} has the caption {caption!r}.")
    first: dict[bytes, str] = {}
    duplicates = []
    for name, image in zip(names, data.images.numpy(), strict=True):
        digest = hashlib.blake2b(image.tobytes(), digest_size=12).digest()
        if digest in first:
            duplicates.append(f"{name} has the same pixels as {first[digest]}.")
        first.setdefault(digest, name)
    classes = Counter(rows.class_names.get(label, str(label)) for label in rows.labels or ())
    return Survey(
        images=len(rows),
        captions=lengths.total(),
        distinct_words=len(words),
        lengths=dict(sorted(lengths.items())),
        classes=dict(classes.most_common()),
        near_empty=near_empty,
        duplicates=duplicates,
        left_out=data.left_out,
        digests=frozenset(first),
    )


def count_shared_images(splits: Sequence[Survey]) -> int:
    """Count the images that occur in more than one split, with identical pixels."""
    return sum(len(each.digests) for each in splits) - len(frozenset[bytes]().union(*(each.digests for each in splits)))


def _is_near_empty(caption: str) -> bool:
    """Return whether a caption has hardly a letter; in other scripts than Latin, one is enough."""
    return sum(map(str.isalnum, caption)) < (MIN_LETTERS if caption.isascii() else 1)

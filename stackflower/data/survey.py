"""What a prepared split holds, in numbers: lengths of captions, classes, duplicates, captions that say next to nothing."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from stackflower.data.prepared import Prepared

MIN_LETTERS = 3  # of a caption; with fewer it is near-empty


@dataclass(frozen=True)
class Survey:
    """Counts of a split, and sentences about what deserves a look."""

    images: int
    captions: int
    distinct_words: int
    lengths: dict[int, int]  # captions by their number of words
    classes: dict[str, int]  # images of each class
    near_empty: list[str]
    duplicates: list[str]
    left_out: list[str]
    digests: frozenset[bytes]  # of each image's pixels

    @property
    def sentences(self) -> list[str]:
        """What a person should know, a sentence each."""
        found = []
        if self.near_empty:
            found.append(f"{len(self.near_empty):,} captions say next to nothing, the first: {self.near_empty[0]}")
        if self.duplicates:
            found.append(f"{len(self.duplicates):,} images are there again, the first: {self.duplicates[0]}")
        if self.left_out:
            found.append(f"{len(self.left_out):,} rows or images are left out, the first: {self.left_out[0]}")
        return found


def survey(data: Prepared) -> Survey:
    """Look at every image and caption of a split."""
    rows, words, lengths = data.rows, set[str](), Counter[int]()
    names = rows.files or [f"image {place}" for place in range(len(rows))]
    near_empty = []
    for name, captions in zip(names, rows.captions, strict=True):
        for caption in captions:
            parts = caption.lower().split()
            words.update(parts)
            lengths[len(parts)] += 1
            if _is_near_empty(caption):
                near_empty.append(f"{name} has the caption {caption!r}.")
    first: dict[bytes, str] = {}
    duplicates = []
    for name, image in zip(names, data.images.numpy(), strict=True):
        digest = hashlib.blake2b(image.tobytes(), digest_size=12).digest()
        if digest in first:
            duplicates.append(f"{name} has the pixels of {first[digest]}.")
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
    """How many images are in more than one split, pixel by pixel."""
    return sum(len(one.digests) for one in splits) - len(frozenset[bytes]().union(*(one.digests for one in splits)))


def _is_near_empty(caption: str) -> bool:
    """Whether a caption has hardly a letter; one of another script says more with fewer."""
    return sum(map(str.isalnum, caption)) < (MIN_LETTERS if caption.isascii() else 1)

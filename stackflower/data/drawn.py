"""The built-in data set `synthetic-flowers` as a source: drawn, not downloaded."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np

from stackflower.data import synthetic
from stackflower.data.grammar import captions
from stackflower.data.prepared import key_of
from stackflower.data.source import Progress, Rows, Source
from stackflower.errors import ConfigError
from stackflower.registry import register

VERSION = 1  # of the drawings and captions: a new one when either changes
LABEL = ("colour", "shape")  # the class of a picture is the pair of these


@lru_cache(maxsize=8)
def _sample(count: int, seed: int) -> dict[str, np.ndarray]:
    return synthetic.sample_attributes(count, seed)


def class_names() -> dict[int, str]:
    """The classes: every colour with every shape."""
    first, second = (synthetic.ATTRIBUTES[name] for name in LABEL)
    return {one * len(second) + two: f"{a} {b}" for one, a in enumerate(first) for two, b in enumerate(second)}


@register("data", "synthetic-flowers")
class SyntheticFlowers(Source):
    """Drawn flowers of 8 colours with captions that ask for colour, shape, centre and more; nothing to download.

    Args:
        count: pictures in the training split.
        validation: pictures in the validation split.
        captions: captions for each picture.
        seed: another seed, other pictures.
    """

    def __init__(self, *, count: int = 8000, validation: int = 1000, captions: int = 6, seed: int = 0):
        problems = [
            f"data.{name} = {value}: it must be above 0."
            for name, value in (("count", count), ("validation", validation), ("captions", captions))
            if value < 1
        ]
        if problems:
            raise ConfigError(problems)
        self.counts = {"train": count, "validation": validation}
        self.per_image, self.seed = captions, seed

    def splits(self) -> list[str]:
        return list(self.counts)

    def _seed(self, split: str) -> int:
        return 2 * self.seed + (split != "train")

    def fingerprint(self, split: str) -> str:
        return key_of(VERSION, self.counts[split], self.per_image, self._seed(split))

    def rows(self, split: str) -> Rows:
        drawn = _sample(self.counts[split], self._seed(split))
        texts, asked = captions(drawn, self._seed(split), self.per_image)
        first, second = (drawn[name] for name in LABEL)
        return Rows(
            captions=texts,
            labels=(first * len(synthetic.ATTRIBUTES[LABEL[1]]) + second).tolist(),
            class_names=class_names(),
            attributes={name: np.array(values)[drawn[name]].tolist() for name, values in synthetic.ATTRIBUTES.items()},
            asked=asked,
        )

    def fill(self, split: str, images: np.ndarray, progress: Progress) -> None:
        images[:] = synthetic.draw(
            _sample(self.counts[split], self._seed(split)), images.shape[1], self._seed(split), progress
        )

    def alike(self, asked: Mapping[str, str], count: int, size: int, seed: int) -> np.ndarray:
        """Other real pictures of one caption: uint8 (count, size, size, 3), what it asks for fixed and all else free."""
        return synthetic.draw(synthetic.sample_attributes(count, seed, asked), size, seed)

    def row(self, rows: Rows, number: int) -> dict[str, Any]:
        """A row of metadata.jsonl."""
        assert rows.labels is not None and rows.asked is not None
        return {
            "text": rows.captions[number], "label": rows.labels[number], "class_name": rows.class_names[rows.labels[number]],
            "attributes": {name: values[number] for name, values in rows.attributes.items()}, "asked": rows.asked[number],
        }  # fmt: skip

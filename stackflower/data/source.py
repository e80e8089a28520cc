"""What a data set is before it is prepared."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np

from stackflower.data.files import Files
from stackflower.declarations import Declared
from stackflower.errors import DataError
from stackflower.utils.progress import Progress

SPLITS = ("train", "validation", "test")


@dataclass
class Rows:
    """One split without its images; every sequence has one entry an image. Captions, names of files and what else is
    long may be read from a file when they are asked for."""

    captions: Sequence[list[str]]
    labels: list[int] | None = None
    class_names: dict[int, str] = field(default_factory=dict)
    attributes: dict[str, list[str]] = field(default_factory=dict)  # attribute → its value in each image
    mentioned_attributes: Sequence[list[list[str]]] | None = None  # for each caption, the attributes it mentions
    files: Sequence[str] | None = None  # names of the image files; None for images that are drawn

    def __len__(self) -> int:
        return len(self.captions)

    def row(self, number: int) -> dict[str, Any]:
        """The metadata of an image, as JSON holds it."""
        found: dict[str, Any] = {"text": self.captions[number]}
        if self.labels is not None:
            found["label"] = self.labels[number]
            if self.labels[number] in self.class_names:
                found["class_name"] = self.class_names[self.labels[number]]
        if self.attributes:
            found["attributes"] = {name: values[number] for name, values in self.attributes.items()}
        if self.mentioned_attributes is not None:
            found["mentioned_attributes"] = self.mentioned_attributes[number]
        if self.files is not None:
            found["file_name"] = self.files[number]
        return found


class ClassifierData(NamedTuple):
    """Images on which the classifier that scores a data set can be trained automatically: no run ever trains on
    them."""

    source: Source
    heads: tuple[str, ...]  # attributes that are classified besides the label
    epochs: int
    description: str  # for the protocol
    key: tuple[object, ...]  # what the images depend on


class Source(Declared, ABC):
    """A data set: images with captions, in splits."""

    sizes: tuple[int, int] = (1, 65_536)  # pixels at which images can be prepared
    layout: ClassVar[str | None] = None  # in a few words, of data that are found at a path; None: named alone
    precedence: ClassVar[int] = 0  # of two sources that recognise the same files, the one with more reads them

    @classmethod
    def recognises(cls, files: Files) -> bool:
        """Whether files have this layout, at a glance."""
        return False

    @abstractmethod
    def splits(self) -> list[str]:
        """Names of the splits, of "train", "validation" and "test"; "train" is always there."""

    @abstractmethod
    def fingerprint(self, split: str) -> str:
        """What the split's images and captions depend on, cheaply; the prepared cache is keyed by it."""

    @abstractmethod
    def rows(self, split: str) -> Rows:
        """The captions, labels and attributes. DataError lists everything that is wrong with them."""

    @abstractmethod
    def fill(
        self,
        split: str,
        images: np.ndarray,
        progress: Progress,
        done: np.ndarray | None = None,
        jobs: int | None = None,
    ) -> dict[int, str]:
        """Write the images into `images`, uint8 (N, S, S, 3), in the order of the rows.

        Args:
            done: (N,) bool, which images are there already; set as others are. None: none is.
            jobs: threads or processes; None: one for each core.

        Returns:
            Positions of images to leave out, and why; a source that leaves none out returns none.
        """

    def left_out(self, split: str) -> list[str]:
        """A sentence for every row that was left out before images were read."""
        return []

    def prepared_folder(self, split: str, size: int) -> Path | None:
        """The folder that holds the split in the prepared form at this size; None where it has to be prepared."""
        return None

    def title(self) -> str:
        """The data set in a word or two, for protocols."""
        return type(self).__name__

    def images_of(self, split: str) -> int:
        """Rows of a split that can be used. DataError where it can't be read at all."""
        return len(self.rows(split))

    def describe(self) -> str:
        """The data set in a sentence, for a person."""
        if self.layout is None:
            return f"Data: {self.title()}."
        counts = []
        for split in self.splits():
            try:
                counts.append(f"{split} {self.images_of(split):,}")
            except DataError:  # of a split that may not be wanted; who reads it is told why
                counts.append(f"{split} can't be read")
        return f"Data: {self.title()} is {self.layout}: {', '.join(counts)} images."

    def warnings(self, split: str) -> list[str]:
        """What a user should know of the split, a sentence each."""
        return []

    def check(self) -> tuple[list[str], list[str]] | None:
        """Everything that is wrong with the data, and what is worth knowing, opening every image: (problems, notes);
        None for data that are generated, not read."""
        return None

    def held_out(self) -> str | None:
        """The split for choices made during development: "validation", else "test"; None where there is neither."""
        return next((split for split in ("validation", "test") if split in self.splits()), None)

    def reported(self) -> str:
        """The split that scores are reported on: "test", on which nothing was chosen, else "validation", else
        "train"."""
        return next(split for split in reversed(SPLITS) if split in self.splits())

    def classifier_data(self) -> ClassifierData | None:
        """Other images of the same kind, for the classifier that scores this data; None where the user has to train
        one."""
        return None

    def similar(self, attributes: dict[str, str], count: int, size: int, seed: int) -> np.ndarray | None:
        """Other real images with these attributes, all else random, uint8 (count, size, size, 3); None where there are
        no more than those of the splits."""
        return None

"""Base class of data sets."""

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
    """Captions, labels and attributes of a split. Each sequence has one entry per image.

    Sequences that may be long, such as the captions, may be read from a file on access.

    Attributes:
        captions: captions of each image.
        labels: label of each image, if all have one.
        class_names: names of the classes by label.
        attributes: for each attribute, its value in each image.
        mentioned_attributes: for each caption of each image, the names of the attributes that it mentions.
        files: names of the image files; None if the images are generated.
    """

    captions: Sequence[list[str]]
    labels: list[int] | None = None
    class_names: dict[int, str] = field(default_factory=dict)
    attributes: dict[str, list[str]] = field(default_factory=dict)
    mentioned_attributes: Sequence[list[list[str]]] | None = None
    files: Sequence[str] | None = None

    def __len__(self) -> int:
        return len(self.captions)

    def row(self, number: int) -> dict[str, Any]:
        """Return the metadata of an image in JSON types."""
        row: dict[str, Any] = {"text": self.captions[number]}
        if self.labels is not None:
            row["label"] = self.labels[number]
            if self.labels[number] in self.class_names:
                row["class_name"] = self.class_names[self.labels[number]]
        if self.attributes:
            row["attributes"] = {name: values[number] for name, values in self.attributes.items()}
        if self.mentioned_attributes is not None:
            row["mentioned_attributes"] = self.mentioned_attributes[number]
        if self.files is not None:
            row["file_name"] = self.files[number]
        return row


class ClassifierData(NamedTuple):
    """Images on which a classifier that scores a data set is trained automatically, and on which no run trains.

    Attributes:
        source: the images.
        heads: attributes to classify in addition to the label.
        epochs: length of the training.
        description: description for the protocol.
        key: everything that the images depend on.
    """

    source: Source
    heads: tuple[str, ...]
    epochs: int
    description: str
    key: tuple[object, ...]


class Source(Declared, ABC):
    """Base class of data sources: images with captions, in splits.

    A subclass defines `splits`, `fingerprint`, `rows` and `fill`. For files in a folder or an archive, derive from
    `ListedSource` instead, which adds checks, resuming and reports of unusable rows.

    Attributes:
        sizes: smallest and largest size in pixels at which images can be prepared.
        layout: the layout in a few words, for data detected at a path; None for data that are selected by name only.
        precedence: if several sources recognise the same files and use as many images, the one with the highest
            precedence reads them.
        is_captioned: whether the images have captions; without them, they can only be compared with.

    Example:
        >>> import numpy as np
        >>> from stackflower.data import Rows, Source
        >>> class Greys(Source):
        ...     def splits(self):
        ...         return ["train"]
        ...
        ...     def fingerprint(self, split):
        ...         return "greys-1"
        ...
        ...     def rows(self, split):
        ...         return Rows(captions=[["a black image"], ["a white image"]])
        ...
        ...     def fill(self, split, images, progress, done=None, jobs=None):
        ...         images[0], images[1] = 0, 255
        ...         progress(2)
        ...         return {}
        >>> source = Greys()
        >>> source.rows("train").captions[1]
        ['a white image']
        >>> images = np.empty((source.count_images("train"), 8, 8, 3), np.uint8)
        >>> source.fill("train", images, progress=lambda finished: None)
        {}
        >>> images.mean((1, 2, 3)).tolist()
        [0.0, 255.0]
    """

    sizes: tuple[int, int] = (1, 65_536)
    layout: ClassVar[str | None] = None
    precedence: ClassVar[int] = 0
    is_captioned: bool = True

    @classmethod
    def recognises(cls, files: Files) -> bool:
        """Return whether files have the layout of this source, judging by their names and a few small files.

        Args:
            files: files of a folder or an archive.
        """
        return False

    @abstractmethod
    def splits(self) -> list[str]:
        """Return the names of the splits: "train", and "validation" or "test" or both if the data have them."""

    @abstractmethod
    def fingerprint(self, split: str) -> str:
        """Return a string that changes whenever the images or captions of a split do.

        It is the key of the prepared data in the cache and is computed at every start, so it must be cheap: use sizes
        and modification times of files rather than their contents.

        Args:
            split: name of the split.
        """

    @abstractmethod
    def rows(self, split: str) -> Rows:
        """Return the captions, labels and attributes of a split.

        Args:
            split: name of the split.

        Raises:
            DataError: a list of everything that is wrong with them.
        """

    @abstractmethod
    def fill(
        self,
        split: str,
        images: np.ndarray,
        progress: Progress,
        done: np.ndarray | None = None,
        jobs: int | None = None,
    ) -> dict[int, str]:
        """Write the images of a split into an array, in the order of the rows.

        Args:
            split: name of the split.
            images: array to fill, uint8 ``(N, S, S, 3)``.
            progress: called with the number of images just finished.
            done: which images are already written, bool ``(N,)``; set it for each further image. None if none is.
            jobs: number of threads or processes. Default: one per core.

        Returns:
            The reason for each image to leave out, by position; empty if all images are used.

        Raises:
            DataError: images can't be read, and the source does not leave them out.
        """

    def left_out(self, split: str) -> list[str]:
        """Return a sentence for each row that was left out before reading images.

        Args:
            split: name of the split.
        """
        return []

    def prepared_folder(self, split: str, size: int) -> Path | None:
        """Return the folder that already holds a split in prepared form; None if it has to be prepared.

        Args:
            split: name of the split.
            size: height and width of the images in pixels.
        """
        return None

    def title(self) -> str:
        """Return a short name of the data set, for protocols of scores."""
        return type(self).__name__

    def count_images(self, split: str) -> int:
        """Return the number of usable images of a split.

        Args:
            split: name of the split.

        Raises:
            DataError: the split can't be read at all.
        """
        return len(self.rows(split))

    def describe(self) -> str:
        """Return a sentence about the data set: its name, layout and number of images."""
        if self.layout is None:
            return f"Data: {self.title()}."
        counts = []
        for split in self.splits():
            try:
                counts.append(f"{split} {self.count_images(split):,}")
            except DataError:  # the split may not be needed; reading it raises this error again
                counts.append(f"{split} can't be read")
        return f"Data: {self.title()} is {self.layout}: {', '.join(counts)} images."

    def warnings(self, split: str) -> list[str]:
        """Return warnings about a split, one sentence each.

        Args:
            split: name of the split.
        """
        return []

    def check(self) -> tuple[list[str], list[str]] | None:
        """Check the data, opening every image.

        Returns:
            Everything that is wrong, and remarks, one sentence each; None for data that are generated.
        """
        return None

    def explain_no_captions(self) -> str:
        """Return a sentence about images without captions that says how to add some."""
        return (
            f"{self.title()} has no captions. Add a metadata.jsonl with rows such as "
            '{"file_name": "0001.jpg", "text": "a red flower"}, a table such as captions.csv, or a text file beside '
            "each image."
        )

    def get_held_out_split(self) -> str | None:
        """Return the split for choices during development: "validation", else "test"; None without either."""
        return next((split for split in ("validation", "test") if split in self.splits()), None)

    def get_reported_split(self) -> str:
        """Return the split that scores are reported on: "test", else "validation", else "train"."""
        return next(split for split in reversed(SPLITS) if split in self.splits())

    def classifier_data(self) -> ClassifierData | None:
        """Return other images of the same kind, to train the classifier that scores this data set automatically.

        Returns:
            The images and how to train on them; None if the user has to train a classifier.
        """
        return None

    def similar(self, attributes: dict[str, str], count: int, size: int, seed: int) -> np.ndarray | None:
        """Return further real images with given attributes, random in all other respects.

        Args:
            attributes: value of each given attribute.
            count: number of images.
            size: height and width in pixels.
            seed: random seed.

        Returns:
            Images, uint8 ``(count, size, size, 3)``; None if the source has no images outside its splits.
        """
        return None

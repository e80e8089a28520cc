"""What a data set is before it is prepared."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from stackflower.utils.progress import Progress


@dataclass
class Rows:
    """One split without its pictures; every list has one entry a picture."""

    captions: list[list[str]]
    labels: list[int] | None = None
    class_names: dict[int, str] = field(default_factory=dict)
    attributes: dict[str, list[str]] = field(default_factory=dict)  # attribute → its value in each picture
    asked: list[list[list[str]]] | None = None  # for each caption, the attributes it states

    def __len__(self) -> int:
        return len(self.captions)

    def without(self, left_out: list[int]) -> Rows:
        """The rows but those at these positions."""
        gone = set(left_out)

        def keep(column: list[Any] | None) -> Any:
            return None if column is None else [value for place, value in enumerate(column) if place not in gone]

        return Rows(
            captions=keep(self.captions),
            labels=keep(self.labels),
            class_names=self.class_names,
            attributes={name: keep(column) for name, column in self.attributes.items()},
            asked=keep(self.asked),
        )

    def plain(self) -> dict[str, Any]:
        """As JSON holds it."""
        return asdict(self)

    @classmethod
    def from_plain(cls, values: dict[str, Any]) -> Rows:
        values["class_names"] = {int(key): name for key, name in values["class_names"].items()}
        return cls(**values)


class Source(ABC):
    """A data set: pictures with captions, in splits."""

    @abstractmethod
    def splits(self) -> list[str]:
        """Names of the splits, "train" first."""

    @abstractmethod
    def fingerprint(self, split: str) -> str:
        """What the split's pictures and captions depend on, cheaply; the prepared cache is keyed by it."""

    @abstractmethod
    def rows(self, split: str) -> Rows:
        """The captions, labels and attributes. DataError lists everything that is wrong with them."""

    @abstractmethod
    def fill(self, split: str, images: np.ndarray, progress: Progress) -> list[int]:
        """Write the pictures into `images`, uint8 (N, S, S, 3), in the order of the rows.

        Returns the positions of pictures to leave out; a source that leaves none out returns an empty list.
        """

    sizes: tuple[int, int] = (1, 65_536)  # pixels that pictures can be prepared at

    def title(self) -> str:
        """The data set in a word or two, for protocols."""
        return type(self).__name__

    def warnings(self, split: str) -> list[str]:
        """What a user should know of the split, a sentence each."""
        return []

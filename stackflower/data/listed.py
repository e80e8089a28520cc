"""The base class of data sets whose images are files on disk."""

from __future__ import annotations

import hashlib
import os
from abc import abstractmethod
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from stackflower.data.images import load_square
from stackflower.data.rows import checked, several, together
from stackflower.data.source import Rows, Source
from stackflower.errors import DataError
from stackflower.utils.cache import key_of
from stackflower.utils.progress import Progress


@dataclass
class Listing:
    """The rows of one split, checked, with ``file_name``, relative to `root`, and a sentence for each that can't be used."""

    root: Path
    rows: list[dict[str, Any]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)  # what is worth knowing

    def add(self, row: dict[str, Any], where: str, follow_links: bool) -> None:
        """A row with ``file_name``, or the problem of it at `where`."""
        row, problem = checked(row)
        path = self.root / str(row["file_name"])
        if not path.is_file():
            problem = f"names {row['file_name']}, and there is no such image"
        elif not follow_links and not path.resolve().is_relative_to(self.root.resolve()):
            problem = (
                f"names {row['file_name']}, a link out of the folder; --set data.follow_links=true reads such images"
            )
        if problem:
            self.problems.append(f"{where} {problem}.")
        else:
            self.rows.append(row)


class ListedSource(Source):
    """Images that are files in a folder. A subclass lists them.

    Args:
        path: the folder.
        skip_bad: leave out rows and images that can't be used, with a warning, instead of raising DataError.
        follow_links: read images that are links to files out of the folder.
    """

    layout: ClassVar[str]  # in a few words, for messages

    def __init__(self, *, path: str, skip_bad: bool = False, follow_links: bool = False):
        self.path = Path(path).expanduser()
        self.skip_bad, self.follow_links = skip_bad, follow_links
        self._listings: dict[str, Listing] = {}
        if not self.path.is_dir():
            raise DataError(
                f"There is no folder {path!r}. --data takes a folder of images with captions, or synthetic-flowers."
            )

    @classmethod
    def recognises(cls, path: Path) -> bool:
        """Whether a folder has this layout, at a glance."""
        return False

    @abstractmethod
    def read_split(self, split: str) -> Listing:
        """The rows of a split. DataError where it can't be read at all."""

    def square(self, path: Path, row: dict[str, Any], size: int) -> np.ndarray:
        """The image of a row as uint8 (size, size, 3)."""
        return load_square(path, size)

    def title(self) -> str:
        return self.path.resolve().name

    def listing(self, split: str) -> Listing:
        """As `read_split`, read once."""
        if split not in self._listings:
            self._listings[split] = self.read_split(split)
        return self._listings[split]

    def fingerprint(self, split: str) -> str:
        listing, digest = self.listing(split), hashlib.blake2b(digest_size=16)
        for row in listing.rows:
            stat = os.stat(listing.root / row["file_name"])
            digest.update(
                repr((sorted(row.items(), key=repr), stat.st_size, stat.st_mtime_ns)).encode("utf-8", "replace")
            )
        return key_of(digest.hexdigest(), listing.problems, self.skip_bad)

    def _usable(self, split: str) -> Sequence[dict[str, Any]]:
        listing = self.listing(split)
        if listing.problems and not self.skip_bad:
            raise DataError(
                f"{listing.root} can't be used as it is:\n{several(listing.problems)}\n"
                f"`stackflower data check {self.path}` lists everything; --set data.skip_bad=true leaves such rows out."
            )
        if not listing.rows:
            first = f": {listing.problems[0]}" if listing.problems else "."
            raise DataError(f"{listing.root} has no row that can be used{first}")
        return listing.rows

    def rows(self, split: str) -> Rows:
        rows = self._usable(split)
        return together(rows, [row["file_name"] for row in rows])

    def fill(self, split: str, images: np.ndarray, progress: Progress) -> list[int]:
        root, rows = self.listing(split).root, self._usable(split)
        problems: dict[int, str] = {}

        def one(position: int) -> None:
            try:
                images[position] = self.square(root / rows[position]["file_name"], rows[position], images.shape[1])
            except DataError as error:
                problems[position] = str(error)

        with ThreadPoolExecutor(os.cpu_count()) as pool:  # Pillow releases the GIL while it decodes
            for _ in pool.map(one, range(len(rows))):
                progress(1)
        if problems and (not self.skip_bad or len(problems) == len(rows)):
            raise DataError(
                f"{len(problems):,} images in {root} can't be read:\n{several(sorted(problems.values()))}\n"
                "Repair them, or remove them with their rows; --set data.skip_bad=true leaves such rows out."
            )
        return sorted(problems)

    def warnings(self, split: str) -> list[str]:
        listing, notes = self.listing(split), list[str]()
        labelled = sum("label" in row for row in listing.rows)
        if 0 < labelled < len(listing.rows):
            notes.append(
                f"{labelled:,} of {len(listing.rows):,} rows of {listing.root} have a label: none is used, and a negative caption may be of "
                "the same class."
            )
        if listing.problems and self.skip_bad:
            notes.append(
                f"{len(listing.problems):,} rows of {listing.root} are left out, the first: {listing.problems[0]}"
            )
        return [*notes, *listing.notes]

    def check(self) -> tuple[list[str], list[str]]:
        problems: list[str] = []
        notes: list[str] = []
        for name in self.splits():
            try:
                listing = self.listing(name)
            except DataError as error:
                problems.append(str(error))
                continue
            problems += [f"{name}: {problem}" for problem in listing.problems]
            notes += [f"{name}: {warning}" for warning in self.warnings(name)]

            def look(row: dict[str, Any], root: Path = listing.root) -> str | None:
                try:
                    self.square(root / row["file_name"], row, 64)
                except DataError as error:
                    return str(error)
                return None

            with ThreadPoolExecutor(os.cpu_count()) as pool:
                problems += [f"{name}: {problem}" for problem in pool.map(look, listing.rows) if problem]
            captions = sum(len(row["text"]) for row in listing.rows)
            notes.append(f"{name}: {len(listing.rows):,} rows, {captions:,} captions.")
        return problems, notes

"""The base class of data sets whose images are files."""

from __future__ import annotations

import hashlib
import os
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from stackflower.data.archives import is_archive, open_files
from stackflower.data.files import Files
from stackflower.data.images import load_square
from stackflower.data.json_lines import JsonLines
from stackflower.data.rows import checked, several, together
from stackflower.data.source import Rows, Source
from stackflower.errors import DataError
from stackflower.formats.lines import lines_of
from stackflower.options import Below1, Seed
from stackflower.utils.cache import key_of
from stackflower.utils.progress import Progress
from stackflower.utils.rng import seeded

AHEAD = 16  # images for each thread that are read before they are decoded


@dataclass
class Listing:
    """The rows of one split, checked, with ``file_name``, a name in `files`, and a sentence for each that can't be
    used.
    """

    files: Files
    rows: JsonLines = field(default_factory=JsonLines)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)  # what is worth knowing
    named: set[str] = field(default_factory=set)  # files that rows have named

    def add(self, row: dict[str, Any], where: str) -> None:
        """A row with ``file_name``, or the problem of it at `where`."""
        row, problem = checked(row)
        name = str(row["file_name"])
        if name not in self.files:
            problem = self.files.why_not(name)
        elif name in self.named:
            problem = f"names {name} a second time"
        self.named.add(name)
        if problem:
            self.problems.append(f"{where} {problem}.")
        else:
            self.rows.append(row)

    def read_captions(self, files: Files, name: str, where: str) -> list[str] | None:
        """Read the lines of a text file; None, with a problem of the image at `where`, if they can't be read."""
        try:
            return lines_of(files.text(name))
        except DataError as error:
            self.problems.append(f"{where} has no captions that can be read: {error}")
            return None


class ListedSource(Source):
    """Images that are files. A subclass lists them, and documents only the options that it adds.

    Args:
        path: the folder, or a zip or tar archive of it.
        held_out: share of the training images that become the validation split, if the data have none.
        seed: seed of that choice.
        skip_bad: leave out rows and images that can't be used, with a warning, instead of raising DataError.
        follow_links: read images and shards that are links out of the folder.
    """

    layout: ClassVar[str]
    as_files: bool = True  # whether images are used as their files are, but for size

    def __init__(
        self, *, path: str, held_out: Below1 = 0.0, seed: Seed = 0, skip_bad: bool = False, follow_links: bool = False
    ):
        self.path = Path(path).expanduser()
        self.share, self.seed, self.skip_bad = held_out, seed, skip_bad
        self.files = self.open(follow_links)
        self._listings: dict[str, Listing] = {}

    def open(self, follow_links: bool) -> Files:
        """The files of `path`."""
        return open_files(self.path, follow_links)

    @abstractmethod
    def own_splits(self) -> list[str]:
        """Names of the splits that the files have."""

    @abstractmethod
    def read_split(self, split: str) -> Listing:
        """The rows of a split. DataError where it can't be read at all."""

    def square(self, content: bytes, where: Path, row: dict[str, Any], size: int) -> np.ndarray:
        """The image of a row as uint8 (size, size, 3), from its file's content; `where` names it.

        DataError for what is no image.
        """
        return load_square(where, size, content=content)

    def title(self) -> str:
        return self.path.resolve().name

    def splits(self) -> list[str]:
        splits = self.own_splits()
        if not self.share:
            return splits
        if "validation" in splits:
            raise DataError(f"{self.path} has a validation split of its own: leave out data.held_out.")
        return [splits[0], "validation", *splits[1:]]

    def images_of(self, split: str) -> int:
        return len(self.listing(split).rows)

    def listing(self, split: str) -> Listing:
        """The rows of a split, read once."""
        if split not in self._listings:
            drawn = self.share > 0 and split in ("train", "validation")
            listing = self.read_split("train" if drawn else split)
            listing.problems = [*listing.files.problems, *listing.problems]
            nested = [name for name in listing.files.names if is_archive(name)]
            if nested:
                listing.notes.append(f"{listing.files.path} holds archives, which are not opened, such as {nested[0]}.")
            reported = "\n".join(listing.problems)
            unread = [name for name in listing.files.refused if name not in reported]
            if unread:
                why = listing.files.refused[unread[0]]
                listing.notes.append(f"{len(unread):,} files in {listing.files.path} are not read: {unread[0]} {why}.")
            if drawn:
                self._draw(listing)
            else:
                self._listings[split] = listing
        return self._listings[split]

    def _draw(self, whole: Listing) -> None:
        """The training and the validation split of images that are one."""
        names = [row["file_name"] for row in whole.rows]
        by_name = sorted(range(len(names)), key=names.__getitem__)
        order = torch.randperm(len(names), generator=seeded(self.seed, 32)).tolist()
        first = max(1, round(len(names) * self.share))
        for split, places in (("validation", order[:first]), ("train", order[first:])):
            part = Listing(whole.files)
            part.rows.extend(whole.rows[by_name[place]] for place in sorted(places))
            if split == "train":
                part.problems, part.notes = whole.problems, whole.notes
            self._listings[split] = part

    def fingerprint(self, split: str) -> str:
        listing, digest = self.listing(split), hashlib.blake2b(digest_size=16)
        for row in listing.rows:
            stamp = listing.files.stamp(row["file_name"])
            digest.update(repr((sorted(row.items(), key=repr), stamp)).encode("utf-8", "replace"))
        return key_of(digest.hexdigest(), listing.problems, self.skip_bad, self.share, self.seed)

    def _usable(self, split: str) -> Sequence[dict[str, Any]]:
        listing = self.listing(split)
        if listing.problems and not self.skip_bad:
            raise DataError(
                f"{listing.files.path} can't be used as it is:\n{several(listing.problems)}\n"
                f"`stackflower data check {self.path}` lists everything; `data.skip_bad=true` leaves such rows out."
            )
        if not listing.rows:
            first = f": {listing.problems[0]}" if listing.problems else "."
            raise DataError(f"{listing.files.path} has no row that can be used{first}")
        return listing.rows

    def rows(self, split: str) -> Rows:
        return together(self._usable(split))

    def left_out(self, split: str) -> list[str]:
        return list(self.listing(split).problems) if self.skip_bad else []

    def fill(
        self,
        split: str,
        images: np.ndarray,
        progress: Progress,
        done: np.ndarray | None = None,
        jobs: int | None = None,
    ) -> dict[int, str]:
        rows = self._usable(split)
        ready = np.zeros(len(rows), dtype=bool) if done is None else done
        problems: dict[int, str] = {}
        progress(int(ready.sum()))
        for position, image in self._decoded(split, ~ready, images.shape[1], jobs):
            if isinstance(image, str):
                problems[position] = image
            else:
                images[position] = image
                ready[position] = True
            progress(1)
        if problems and (not self.skip_bad or len(problems) == len(rows)):
            listed = [problems[position] for position in sorted(problems)]
            raise DataError(
                f"{len(problems):,} images in {self.listing(split).files.path} can't be read:\n{several(listed)}\n"
                "Repair them, or remove them with their rows; `data.skip_bad=true` leaves such rows out."
            )
        return problems

    def unreadable(self, split: str) -> dict[int, str]:
        """What is wrong with each image that can't be read, by the position of its row."""
        every = self._decoded(split, np.ones(len(self.listing(split).rows), dtype=bool), 64)
        return dict(sorted((position, image) for position, image in every if isinstance(image, str)))

    def _decoded(
        self, split: str, wanted: np.ndarray, size: int, jobs: int | None = None
    ) -> Iterator[tuple[int, np.ndarray | str]]:
        """Images of the `wanted` rows, bool (N,), by position, as they are decoded, or what is wrong with them.

        Files are read in their order, a few ahead.
        """
        listing = self.listing(split)
        position_of = {row["file_name"]: place for place, row in enumerate(listing.rows) if wanted[place]}

        def decode(name: str, content: bytes) -> np.ndarray:
            return self.square(content, listing.files.path / name, listing.rows[position_of[name]], size)

        threads = jobs or os.cpu_count() or 1
        with ThreadPoolExecutor(threads) as pool:  # Pillow releases the GIL while it decodes
            pending: dict[Future[np.ndarray], int] = {}
            for name in listing.files.in_order(position_of):
                try:
                    content = listing.files.read(name)
                except DataError as error:
                    yield position_of[name], str(error)
                    continue
                pending[pool.submit(decode, name, content)] = position_of[name]
                if len(pending) >= threads * AHEAD:
                    yield from _finished(pending, wait(pending, return_when=FIRST_COMPLETED).done)
            yield from _finished(pending, wait(pending).done)

    def warnings(self, split: str) -> list[str]:
        listing, notes = self.listing(split), list[str]()
        labelled = sum("label" in row for row in listing.rows)
        if 0 < labelled < len(listing.rows):
            notes.append(
                f"{labelled:,} of {len(listing.rows):,} rows of {listing.files.path} have a label: none is used, and a "
                "negative caption may be of the same class."
            )
        names: dict[int, str] = {}
        for row in listing.rows:
            if (
                "label" in row
                and "class_name" in row
                and names.setdefault(row["label"], row["class_name"]) != row["class_name"]
            ):
                first, other = names[row["label"]], row["class_name"]
                notes.append(
                    f"{listing.files.path} names the class {row['label']} {first!r} and {other!r}; it is called "
                    f"{other!r}."
                )
                break
        if listing.problems and self.skip_bad:
            notes.append(
                f"{len(listing.problems):,} rows of {listing.files.path} are left out, the first: {listing.problems[0]}"
            )
        return [*notes, *listing.notes]

    def check(self) -> tuple[list[str], list[str]]:
        problems: list[str] = []
        notes: list[str] = []
        for split in self.splits():
            try:
                listing = self.listing(split)
            except DataError as error:
                problems.append(str(error))
                continue
            problems += [f"{split}: {problem}" for problem in listing.problems]
            notes += [f"{split}: {warning}" for warning in self.warnings(split)]
            problems += [f"{split}: {problem}" for problem in self.unreadable(split).values()]
            captions = sum(len(row["text"]) for row in listing.rows)
            notes.append(f"{split}: {len(listing.rows):,} images, {captions:,} captions.")
        return problems, notes


def _finished(
    pending: dict[Future[np.ndarray], int], done: Iterable[Future[np.ndarray]]
) -> Iterator[tuple[int, np.ndarray | str]]:
    """What these have decoded, taken out of `pending`."""
    for future in done:
        position, error = pending.pop(future), future.exception()
        if isinstance(error, DataError):
            yield position, str(error)
        else:
            yield position, future.result()

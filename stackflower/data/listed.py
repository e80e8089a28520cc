"""Base class of data sets whose images are files."""

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
from stackflower.data.rows import build_rows, check_row, join_problems
from stackflower.data.source import Rows, Source
from stackflower.errors import DataError
from stackflower.formats.lines import split_lines
from stackflower.options import Below1, Seed
from stackflower.utils.cache import compute_key
from stackflower.utils.progress import Progress
from stackflower.utils.rng import create_rng

READ_AHEAD = 16  # files per thread that are read before they are decoded


@dataclass
class Listing:
    """Checked rows of one split, and what is wrong with the others."""

    files: Files
    rows: JsonLines = field(default_factory=JsonLines)  # usable rows; their "file_name" is a name in `files`
    problems: list[str] = field(default_factory=list)  # a sentence for each row that can't be used
    notes: list[str] = field(default_factory=list)  # other remarks for the user
    named: set[str] = field(default_factory=set)  # names of the files that rows refer to

    def add(self, row: dict[str, Any], where: str) -> None:
        """Add a row with the key "file_name", or what is wrong with the row at `where`."""
        row, problem = check_row(row)
        name = str(row["file_name"])
        if name not in self.files:
            problem = self.files.explain_missing(name)
        elif name in self.named:
            problem = f"names {name} a second time"
        self.named.add(name)
        if problem:
            self.problems.append(f"{where} {problem}.")
        else:
            self.rows.append(row)

    def read_captions(self, files: Files, name: str, where: str) -> list[str] | None:
        """Read the lines of a text file; if that fails, add a problem of the image at `where` and return None."""
        try:
            return split_lines(files.text(name))
        except DataError as error:
            self.problems.append(f"{where} has no readable captions: {error}")
            return None


class ListedSource(Source):
    """Data set whose images are files. A subclass lists the images, and documents only the options that it adds.

    Args:
        path: folder, or a zip or tar archive of it.
        held_out: share of the training images to use as the validation split, if the data have none.
        seed: random seed of that choice.
        skip_bad: leave out rows and images that can't be used, with a warning, instead of raising DataError.
        follow_links: read images and shards behind links that lead out of the folder.
    """

    layout: ClassVar[str]
    as_files: bool = True  # whether images are used as they are in their files, apart from their size

    def __init__(
        self, *, path: str, held_out: Below1 = 0.0, seed: Seed = 0, skip_bad: bool = False, follow_links: bool = False
    ):
        self.path = Path(path).expanduser()
        self.share, self.seed, self.skip_bad = held_out, seed, skip_bad
        self.files = self.open(follow_links)
        self._listings: dict[str, Listing] = {}

    def open(self, follow_links: bool) -> Files:
        """Open the files at `path`."""
        return open_files(self.path, follow_links)

    @abstractmethod
    def find_splits(self) -> list[str]:
        """Return the names of the splits that the files define."""

    @abstractmethod
    def read_split(self, split: str) -> Listing:
        """Read the rows of a split; raise DataError if it can't be read at all."""

    def square(self, content: bytes, where: Path, row: dict[str, Any], size: int) -> np.ndarray:
        """Decode the image of a row from the bytes of its file, called `where`, to uint8 (size, size, 3).

        Raises:
            DataError: the file is not an image.
        """
        return load_square(where, size, content=content)

    def title(self) -> str:
        return self.path.resolve().name

    def splits(self) -> list[str]:
        splits = self.find_splits()
        if not self.share:
            return splits
        if "validation" in splits:
            raise DataError(f"{self.path} has its own validation split: leave out `data.held_out`.")
        return [splits[0], "validation", *splits[1:]]

    def count_images(self, split: str) -> int:
        return len(self.get_listing(split).rows)

    def get_listing(self, split: str) -> Listing:
        """Return the rows of a split, which are read once."""
        if split not in self._listings:
            drawn = self.share > 0 and split in ("train", "validation")
            listing = self.read_split("train" if drawn else split)
            listing.problems = [*listing.files.problems, *listing.problems]
            nested = [name for name in listing.files.names if is_archive(name)]
            if nested:
                listing.notes.append(f"{listing.files.path} holds archives, which are not opened, such as {nested[0]}.")
            problems = "\n".join(listing.problems)
            unread = [name for name in listing.files.refused if name not in problems]
            if unread:
                reason = listing.files.refused[unread[0]]
                listing.notes.append(
                    f"{len(unread):,} files in {listing.files.path} are not read, such as {unread[0]}, which {reason}."
                )
            if drawn:
                self._draw_validation(listing)
            else:
                self._listings[split] = listing
        return self._listings[split]

    def _draw_validation(self, whole: Listing) -> None:
        """Draw the validation split from the training images, and list both."""
        names = [row["file_name"] for row in whole.rows]
        by_name = sorted(range(len(names)), key=names.__getitem__)
        order = torch.randperm(len(names), generator=create_rng(self.seed, 32)).tolist()
        first = max(1, round(len(names) * self.share))
        for split, positions in (("validation", order[:first]), ("train", order[first:])):
            listing = Listing(whole.files)
            listing.rows.extend(whole.rows[by_name[position]] for position in sorted(positions))
            if split == "train":
                listing.problems, listing.notes = whole.problems, whole.notes
            self._listings[split] = listing

    def fingerprint(self, split: str) -> str:
        listing, digest = self.get_listing(split), hashlib.blake2b(digest_size=16)
        for row in listing.rows:
            stamp = listing.files.stamp(row["file_name"])
            digest.update(repr((sorted(row.items(), key=repr), stamp)).encode("utf-8", "replace"))
        return compute_key(digest.hexdigest(), listing.problems, self.skip_bad, self.share, self.seed)

    def _get_usable_rows(self, split: str) -> Sequence[dict[str, Any]]:
        listing = self.get_listing(split)
        if listing.problems and not self.skip_bad:
            raise DataError(
                f"{listing.files.path} can't be used as it is:\n{join_problems(listing.problems)}\n"
                f"`stackflower data check {self.path}` lists everything; `data.skip_bad=true` leaves such rows out."
            )
        if not listing.rows:
            first = f": {listing.problems[0]}" if listing.problems else "."
            raise DataError(f"{listing.files.path} has no usable row{first}")
        return listing.rows

    def rows(self, split: str) -> Rows:
        return build_rows(self._get_usable_rows(split))

    def left_out(self, split: str) -> list[str]:
        return list(self.get_listing(split).problems) if self.skip_bad else []

    def fill(
        self,
        split: str,
        images: np.ndarray,
        progress: Progress,
        done: np.ndarray | None = None,
        jobs: int | None = None,
    ) -> dict[int, str]:
        rows = self._get_usable_rows(split)
        ready = np.zeros(len(rows), dtype=bool) if done is None else done
        problems: dict[int, str] = {}
        progress(int(ready.sum()))
        for position, image in self._decode(split, ~ready, images.shape[1], jobs):
            if isinstance(image, str):
                problems[position] = image
            else:
                images[position] = image
                ready[position] = True
            progress(1)
        if problems and (not self.skip_bad or len(problems) == len(rows)):
            sentences = [problems[position] for position in sorted(problems)]
            raise DataError(
                f"{len(problems):,} images in {self.get_listing(split).files.path} can't be read:\n"
                f"{join_problems(sentences)}\n"
                "Repair them, or remove them and their rows; `data.skip_bad=true` leaves such rows out."
            )
        return problems

    def find_unreadable(self, split: str) -> dict[int, str]:
        """Decode all images of a split; return what is wrong with those that can't be read, by position."""
        decoded = self._decode(split, np.ones(len(self.get_listing(split).rows), dtype=bool), 64)
        return dict(sorted((position, image) for position, image in decoded if isinstance(image, str)))

    def _decode(
        self, split: str, wanted: np.ndarray, size: int, jobs: int | None = None
    ) -> Iterator[tuple[int, np.ndarray | str]]:
        """Decode the images of the `wanted` rows, bool (N,), in threads; files are read a few ahead.

        Yields:
            The position of a row, and its image or what is wrong with it, as images are finished.
        """
        listing = self.get_listing(split)
        position_of = {row["file_name"]: position for position, row in enumerate(listing.rows) if wanted[position]}

        def decode(name: str, content: bytes) -> np.ndarray:
            return self.square(content, listing.files.path / name, listing.rows[position_of[name]], size)

        threads = jobs or os.cpu_count() or 1
        with ThreadPoolExecutor(threads) as pool:  # Pillow releases the GIL while decoding
            pending: dict[Future[np.ndarray], int] = {}
            for name in listing.files.order_for_reading(position_of):
                try:
                    content = listing.files.read(name)
                except DataError as error:
                    yield position_of[name], str(error)
                    continue
                pending[pool.submit(decode, name, content)] = position_of[name]
                if len(pending) >= threads * READ_AHEAD:
                    yield from _collect_finished(pending, wait(pending, return_when=FIRST_COMPLETED).done)
            yield from _collect_finished(pending, wait(pending).done)

    def warnings(self, split: str) -> list[str]:
        listing, notes = self.get_listing(split), list[str]()
        labelled = sum("label" in row for row in listing.rows)
        if 0 < labelled < len(listing.rows):
            notes.append(
                f"Only {labelled:,} of {len(listing.rows):,} rows of {listing.files.path} have a label. No labels are "
                "used, so a negative caption may be of the same class."
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
                    f"{listing.files.path} names the class {row['label']} both {first!r} and {other!r}; {other!r} is "
                    "used."
                )
                break
        if listing.problems and self.skip_bad:
            notes.append(
                f"{len(listing.problems):,} rows of {listing.files.path} are left out. The first: {listing.problems[0]}"
            )
        return [*notes, *listing.notes]

    def check(self) -> tuple[list[str], list[str]]:
        problems: list[str] = []
        notes: list[str] = []
        for split in self.splits():
            try:
                listing = self.get_listing(split)
            except DataError as error:
                problems.append(str(error))
                continue
            problems += [f"{split}: {problem}" for problem in listing.problems]
            notes += [f"{split}: {warning}" for warning in self.warnings(split)]
            problems += [f"{split}: {problem}" for problem in self.find_unreadable(split).values()]
            captions = sum(len(row["text"]) for row in listing.rows)
            notes.append(f"{split}: {len(listing.rows):,} images, {captions:,} captions.")
        return problems, notes


def _collect_finished(
    pending: dict[Future[np.ndarray], int], done: Iterable[Future[np.ndarray]]
) -> Iterator[tuple[int, np.ndarray | str]]:
    """Remove finished futures from `pending`, and yield positions with images or with what is wrong."""
    for future in done:
        position, error = pending.pop(future), future.exception()
        if isinstance(error, DataError):
            yield position, str(error)
        else:
            yield position, future.result()

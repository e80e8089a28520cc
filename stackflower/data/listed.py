"""Base class of data sets whose images are files."""

from __future__ import annotations

import hashlib
import os
import re
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from stackflower.data.archives import is_archive, open_files
from stackflower.data.files import Files
from stackflower.data.images import load_square
from stackflower.data.rows.assembly import Assembler
from stackflower.data.rows.cells import show
from stackflower.data.rows.checks import build_rows, join_problems
from stackflower.data.rows.containers import RawTable
from stackflower.data.rows.listing import Listing
from stackflower.data.source import SPLITS, Rows, Source
from stackflower.data.splits import find_split, sort_top_folders
from stackflower.errors import ColumnError, DataError
from stackflower.options import Below1, Seed
from stackflower.utils.cache import compute_key
from stackflower.utils.progress import Progress
from stackflower.utils.rng import create_rng

MARKUP = re.compile(r"&(?:[a-z]{2,6}|#\d{1,5});|</?[a-z]{1,6}/?>")
MIN_DISTINCT_LABELS = 8  # images up to which each may well have its own class
READ_AHEAD = 16  # files per thread to read ahead of decoding


class ListedSource(Source):
    """Data set whose images are files or cells of tables.

    A subclass defines `recognises`, which returns whether files have its layout, and `list_tables`, which yields the
    unprocessed rows. It documents only the options that it adds.

    Args:
        path: folder, or a zip or tar archive of a folder.
        held_out: share of the training images to use as the validation split, if the data have none.
        seed: random seed of the validation split.
        skip_bad: leave out rows and images that can't be used, with a warning, instead of raising DataError.
        follow_links: read images and shards behind links that lead out of the folder.
    """

    layout: ClassVar[str]
    reports_unused: ClassVar[bool] = True  # whether to report images that no row names
    as_files: bool = True  # whether images are used unchanged, apart from their size
    columns: Mapping[str, str | None] = {}  # names of columns that the user chose, by "image", "text", "label", "split"
    has_split_folders: ClassVar[bool] = False  # whether a row without a split takes that of its image's folder

    def __init__(
        self, *, path: str, held_out: Below1 = 0.0, seed: Seed = 0, skip_bad: bool = False, follow_links: bool = False
    ):
        self.path = Path(path).expanduser()
        self.share, self.seed, self.skip_bad = held_out, seed, skip_bad
        self.files = self.open(follow_links)

    def open(self, follow_links: bool) -> Files:
        """Open the files at `path`."""
        return open_files(self.path, follow_links, enters=True)

    @abstractmethod
    def list_tables(self) -> Iterable[RawTable]:
        """Yield the unprocessed rows of all splits.

        Raises:
            DataError: no rows can be read.
        """

    def read(self) -> dict[str, Listing]:
        """Read and check the rows of all splits."""
        folders, classes = sort_top_folders(self.files) if self.has_split_folders else ([], [])
        assembler = Assembler(self.files, self.columns, folders, self.reports_unused, self.is_captioned)
        uncaptioned: list[ColumnError] = []
        for table in self.list_tables():
            try:
                assembler.read(table)
            except ColumnError as error:
                if error.content != "text" or error.candidates:
                    raise
                uncaptioned.append(error)
                assembler.notes.append(f"{self.files.path / table.name} has no captions and is left out.")
        if uncaptioned and 1 not in assembler.has_text:
            raise uncaptioned[0]
        assembler.notes += [_describe_class_folder(self.files.path, folder) for folder in classes]
        return assembler.finish()

    def square(self, content: bytes, where: Path, row: dict[str, Any], size: int) -> np.ndarray:
        """Decode the image of a row to uint8 (size, size, 3).

        Args:
            content: bytes of the file.
            where: name of the file, for messages.
            row: the row.
            size: height and width of the result.

        Raises:
            DataError: the file is not an image.
        """
        return load_square(where, size, content=content)

    def title(self) -> str:
        return self.path.resolve().name

    @cached_property
    def listings(self) -> dict[str, Listing]:
        """Rows of each split, read on first access."""
        listings = self.read()
        files, notes = self.files, listings["train"].notes
        listings["train"].problems[:0] = files.problems
        if not any(listing.rows or listing.problems for listing in listings.values()):
            listings["train"].problems.append(f"{files.path} has no usable images.")
        nested = [name for name in files.names if is_archive(name)]
        if nested:
            notes.append(
                f"{files.path} contains archives, which are not opened, such as {nested[0]}; unpack them to "
                "use their images."
            )
        problems = "\n".join(problem for listing in listings.values() for problem in listing.problems)
        unread = [name for name in files.refused if name not in problems]
        if unread:
            reason = files.refused[unread[0]]
            notes.append(f"{len(unread):,} files in {files.path} are not read, such as {unread[0]}, which {reason}.")
        if self.share:
            if "validation" in listings:
                raise DataError(f"{self.path} already has a validation split; leave out `data.held_out`.")
            listings |= self._draw_validation(listings["train"])
        return {split: listings[split] for split in SPLITS if split in listings}

    def splits(self) -> list[str]:
        return list(self.listings)

    def count_images(self, split: str) -> int:
        return len(self.get_listing(split).rows)

    def get_listing(self, split: str) -> Listing:
        """Return the rows of a split.

        Raises:
            DataError: the data set has no such split.
        """
        if split not in self.listings:
            raise DataError(f"{self.files.path} has no split {split!r}; its splits are {', '.join(self.listings)}.")
        return self.listings[split]

    def _draw_validation(self, whole: Listing) -> dict[str, Listing]:
        """Draw a validation split from the training rows; return both splits."""
        by_name = sorted(range(len(whole.names)), key=whole.names.__getitem__)
        order = torch.randperm(len(by_name), generator=create_rng(self.seed, 32)).tolist()
        first = max(1, round(len(order) * self.share))
        drawn = {"train": Listing(whole.files, problems=whole.problems, notes=whole.notes)}
        drawn["validation"] = Listing(whole.files)
        for split, positions in (("validation", order[:first]), ("train", order[first:])):
            for position in sorted(positions):
                drawn[split].append(whole.rows[by_name[position]])
        return drawn

    def fingerprint(self, split: str) -> str:
        listing = self.get_listing(split)
        digest = hashlib.blake2b(listing.rows.compute_digest(), digest_size=16)
        for name in listing.names:
            digest.update(repr(listing.files.stamp(name)).encode())
        return compute_key(digest.hexdigest(), listing.problems, self.skip_bad, self.share, self.seed)

    def _get_usable_rows(self, split: str) -> Sequence[dict[str, Any]]:
        listing = self.get_listing(split)
        if listing.problems and not self.skip_bad:
            raise DataError(
                f"{listing.files.path} can't be used:\n{join_problems(listing.problems)}\n"
                f"`stackflower data check {self.path}` lists all problems; `data.skip_bad=true` leaves such rows out."
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
        """Decode all images of a split; return the problems of unreadable ones by position."""
        decoded = self._decode(split, np.ones(len(self.get_listing(split).rows), dtype=bool), 64)
        return dict(sorted((position, image) for position, image in decoded if isinstance(image, str)))

    def _decode(
        self, split: str, wanted: np.ndarray, size: int, jobs: int | None = None
    ) -> Iterator[tuple[int, np.ndarray | str]]:
        """Decode the images of the `wanted` rows, bool (N,), in threads, and read files ahead.

        Yields:
            The position of a row, and its image or its problem, in order of completion.
        """
        listing = self.get_listing(split)
        position_of = {name: position for position, name in enumerate(listing.names) if wanted[position]}

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
        labels, marked = list[Any](), None
        for row in listing.rows:
            labels += [row["label"]] if "label" in row else []
            marked = marked or next(filter(MARKUP.search, row["text"]), None)
        labelled = len(labels)
        if 0 < labelled < len(listing.rows):
            notes.append(
                f"Only {labelled:,} of {len(listing.rows):,} rows of {listing.files.path} have a label, so no labels "
                "are used: a negative caption may be of the same class."
            )
        if labelled > MIN_DISTINCT_LABELS and len(set(labels)) == len(listing.rows):
            notes.append(
                f"{listing.files.path} has as many classes as images ({labelled:,}), so the labels may not be classes."
            )
        if marked is not None:
            notes.append(f"Captions of {listing.files.path} contain HTML, such as {show(marked)}.")
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
        try:
            splits = self.splits()
        except DataError as error:
            return [str(error)], []
        for split in splits:
            listing = self.get_listing(split)
            unreadable = self.find_unreadable(split)
            is_usable = self.skip_bad and len(unreadable) < len(listing.rows)
            left_out = [f"{split}: {problem}" for problem in (*listing.problems, *unreadable.values())]
            notes += [f"{split}: {warning}" for warning in self.warnings(split)]
            notes += [f"Left out: {sentence}" for sentence in left_out] if is_usable else []
            problems += [] if is_usable else left_out
            captions = sum(len(row["text"]) for row in listing.rows)
            notes.append(f"{split}: {len(listing.rows):,} images, {captions:,} captions.")
        return problems, notes


def _describe_class_folder(path: Path, folder: str) -> str:
    """Describe a folder that is named like a split and is taken for a class."""
    split = find_split(folder)
    return (
        f"The folder {folder!r} of {path} is taken for a class, because most images are in folders of other names; "
        f"to read it as the {split} split, list its images in {split}.txt."
    )


def _collect_finished(
    pending: dict[Future[np.ndarray], int], done: Iterable[Future[np.ndarray]]
) -> Iterator[tuple[int, np.ndarray | str]]:
    """Remove finished futures from `pending`, and yield each position with its image or its problem."""
    for future in done:
        position, error = pending.pop(future), future.exception()
        if isinstance(error, DataError):
            yield position, str(error)
        else:
            yield position, future.result()

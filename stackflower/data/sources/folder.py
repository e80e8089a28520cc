"""Images and captions in a folder, by the Hugging Face ImageFolder convention.

``metadata.jsonl`` or ``metadata.csv`` in the folder of the images, a row for each: ``file_name``, ``text`` (a string or a list of
strings), and optionally ``label`` (an integer), ``class_name``, ``attributes`` (an object of names to values) and
``mentioned_attributes`` (for each caption, the attributes it mentions). Split folders ``train``, ``validation`` and ``test``, or none.
"""

from __future__ import annotations

import contextlib
import csv
import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from stackflower.data.images import EXTENSIONS, load_square
from stackflower.data.rows import checked, parsed, several, together
from stackflower.data.source import Rows, Source
from stackflower.errors import DataError
from stackflower.registry import register
from stackflower.utils.cache import key_of
from stackflower.utils.progress import Progress

METADATA = ("metadata.jsonl", "metadata.csv")
FOLDERS = {"train": ("train",), "validation": ("validation", "val", "valid"), "test": ("test",)}


def _read_jsonl(path: Path) -> Iterator[tuple[int, dict[str, Any] | str]]:
    with path.open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                row, problem = parsed(line)
                yield number, problem or row


def _read_csv(path: Path) -> Iterator[tuple[int, dict[str, Any] | str]]:
    with path.open(encoding="utf-8-sig", newline="") as lines:
        for number, row in enumerate(csv.DictReader(lines), 2):
            values: dict[str, Any] = {key: value for key, value in row.items() if key and value is not None}
            if values.get("label", "").lstrip("-").isdigit():
                values["label"] = int(values["label"])
            # a cell may hold a list or an object as JSON
            for key in ("text", "attributes", "mentioned_attributes"):
                if str(values.get(key, ""))[:1] in ("[", "{"):
                    with contextlib.suppress(ValueError, RecursionError):
                        values[key] = json.loads(values[key])
            yield number, values


class Split:
    """One folder of images with its metadata, read and checked."""

    def __init__(self, folder: Path, follow_links: bool = False):
        self.folder, self.follow_links = folder, follow_links
        found = [folder / name for name in METADATA if (folder / name).is_file()]
        if not found:
            near = sorted(path.name for path in folder.iterdir() if path.suffix in (".jsonl", ".json", ".csv", ".txt"))
            hint = f" There is {', '.join(near[:3])}: rename it if it is the metadata." if near else ""
            raise DataError(
                f"{folder} has no metadata.jsonl or metadata.csv.{hint} Each of its lines names an image and its "
                'caption, as in {"file_name": "0001.jpg", "text": "a red flower"}.'
            )
        self.metadata = found[0]

    @cached_property
    def _found(self) -> tuple[set[str], set[str]]:
        """Images in the folder, and links to images out of it that are not followed, by file name as in the metadata."""
        inside, outside, root = set[str](), set[str](), self.folder.resolve()
        for path in self.folder.rglob("*"):
            if path.suffix.lower() in EXTENSIONS and path.is_file():
                followed = self.follow_links or path.resolve().is_relative_to(root)
                (inside if followed else outside).add(path.relative_to(self.folder).as_posix())
        return inside, outside

    @property
    def files(self) -> set[str]:
        """Every image in the folder and its subfolders, by file name as in the metadata."""
        return self._found[0]

    @property
    def outside(self) -> set[str]:
        """Links to images out of the folder that are not followed."""
        return self._found[1]

    @cached_property
    def read(self) -> tuple[list[dict[str, Any]], list[str]]:
        """The valid rows, and a sentence for each invalid one."""
        rows, problems, seen = [], [], set[str]()
        reader = _read_jsonl if self.metadata.suffix == ".jsonl" else _read_csv
        try:
            for number, row in reader(self.metadata):
                where = f"{self.metadata.name}, line {number}"
                if isinstance(row, str):
                    problems.append(f"{where} {row}.")
                    continue
                name, (checked_row, problem) = row.get("file_name"), checked(row)
                if not isinstance(name, str) or not name:
                    problem = 'has no "file_name"'
                else:
                    name = PurePosixPath(name.replace("\\", "/")).as_posix()
                    problem = self._file_problem(name, seen) or problem
                    seen.add(name)
                if problem:
                    problems.append(f"{where} {problem}.")
                else:
                    rows.append({**checked_row, "file_name": name})
        except (UnicodeDecodeError, csv.Error) as error:
            problems.append(f"{self.metadata} is not a text file in UTF-8 ({error}); save it as UTF-8.")
        if not rows and not problems:
            problems.append(f"{self.metadata} has no rows.")
        return rows, problems

    def _file_problem(self, name: str, seen: set[str]) -> str | None:
        """What is wrong with the file that a row names, or None."""
        if name in seen:
            return f"names {name} a second time"
        if name in self.files:
            return None
        if name in self.outside:
            return f"names {name}, a link out of the folder; --set data.follow_links=true reads such images"
        return f"names {name}, and there is no such image"

    def orphans(self) -> list[str]:
        """Images that no row names."""
        rows, _ = self.read
        return sorted(self.files - {row["file_name"] for row in rows})


@register("data", "folder")
class FolderSource(Source):
    """A folder by the Hugging Face ImageFolder convention: images and their ``metadata.jsonl`` or ``metadata.csv``.

    Args:
        path: the folder.
        skip_bad: leave out rows and images that can't be used, with a warning, instead of raising DataError.
        follow_links: read images that are links to files out of the folder.
    """

    def __init__(self, *, path: str, skip_bad: bool = False, follow_links: bool = False):
        self.path = Path(path).expanduser()
        self.skip_bad, self.follow_links = skip_bad, follow_links
        self._splits: dict[str, Split] = {}
        if not self.path.is_dir():
            raise DataError(
                f"There is no folder {path!r}. --data takes a folder with metadata.jsonl, or synthetic-flowers."
            )

    def title(self) -> str:
        return self.path.resolve().name

    def splits(self) -> list[str]:
        found = [name for name, folders in FOLDERS.items() if any((self.path / folder).is_dir() for folder in folders)]
        return found if "train" in found else ["train"]

    def split(self, name: str) -> Split:
        """The folder of a split, read once."""
        if name not in self._splits:
            candidates = [self.path / folder for folder in FOLDERS.get(name, ())]
            folder = next((path for path in candidates if path.is_dir()), self.path)
            self._splits[name] = Split(folder, self.follow_links)
        return self._splits[name]

    def fingerprint(self, split: str) -> str:
        part = self.split(split)
        stamps = []
        for name in sorted(part.files):
            stat = os.stat(part.folder / name)
            stamps.append((name, stat.st_size, stat.st_mtime_ns))
        return key_of(part.metadata.read_bytes(), stamps, self.skip_bad)

    def _usable(self, split: str) -> list[dict[str, Any]]:
        rows, problems = self.split(split).read
        if problems and not self.skip_bad:
            raise DataError(
                f"{self.split(split).folder} can't be used as it is:\n{several(problems)}\n"
                f"`stackflower data check {self.path}` lists everything; --set data.skip_bad=true leaves such rows out."
            )
        if not rows:
            raise DataError(f"{self.split(split).folder} has no row that can be used: {problems[0]}")
        return rows

    def rows(self, split: str) -> Rows:
        rows = self._usable(split)
        return together(rows, [row["file_name"] for row in rows])

    def fill(self, split: str, images: np.ndarray, progress: Progress) -> list[int]:
        part, rows = self.split(split), self._usable(split)
        problems: dict[int, str] = {}

        def one(position: int) -> None:
            try:
                images[position] = load_square(part.folder / rows[position]["file_name"], images.shape[1])
            except DataError as error:
                problems[position] = str(error)

        with ThreadPoolExecutor(os.cpu_count()) as pool:  # Pillow releases the GIL while it decodes
            for _ in pool.map(one, range(len(rows))):
                progress(1)
        if problems and (not self.skip_bad or len(problems) == len(rows)):
            raise DataError(
                f"{len(problems):,} images in {part.folder} can't be read:\n{several(sorted(problems.values()))}\n"
                "Repair them, or remove them with their rows; --set data.skip_bad=true leaves such rows out."
            )
        return sorted(problems)

    def warnings(self, split: str) -> list[str]:
        _, problems = self.split(split).read
        notes = []
        labelled = sum("label" in row for row in self.split(split).read[0])
        if 0 < labelled < len(self.split(split).read[0]):
            notes.append(
                f"{labelled:,} of {len(self.split(split).read[0]):,} rows of {self.split(split).metadata} have a label: "
                "none is used, and a negative caption may be of the same class."
            )
        if problems and self.skip_bad:
            notes.append(
                f"{len(problems):,} rows of {self.split(split).metadata} are left out, the first: {problems[0]}"
            )
        orphans = self.split(split).orphans()
        if not orphans:
            return notes
        return [
            *notes,
            f"{len(orphans):,} images in {self.split(split).folder} have no row in {self.split(split).metadata.name} "
            f"and are not used ({', '.join(orphans[:3])}{', …' if len(orphans) > 3 else ''}).",
        ]

    def check(self) -> tuple[list[str], list[str]]:
        """Everything that is wrong with the folder, and what is worth knowing, opening every image: (problems, notes)."""
        problems, notes = [], []
        for name in self.splits():
            try:
                part = self.split(name)
            except DataError as error:
                problems.append(str(error))
                continue
            rows, bad = part.read
            problems += [f"{name}: {problem}" for problem in bad]
            notes += [f"{name}: {warning}" for warning in self.warnings(name)]

            def look(row: dict[str, Any], part: Split = part) -> str | None:
                try:
                    load_square(part.folder / row["file_name"], 64)
                except DataError as error:
                    return str(error)
                return None

            with ThreadPoolExecutor(os.cpu_count()) as pool:
                problems += [f"{name}: {problem}" for problem in pool.map(look, rows) if problem]
            notes.append(f"{name}: {len(rows):,} rows, {sum(len(row['text']) for row in rows):,} captions.")
        return problems, notes

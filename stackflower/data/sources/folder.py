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
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from stackflower.data.images import EXTENSIONS
from stackflower.data.listed import ListedSource, Listing
from stackflower.data.rows import checked, parsed
from stackflower.errors import DataError
from stackflower.registry import register
from stackflower.utils.cache import key_of

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


def splits_of(path: Path) -> list[str]:
    """The splits that have a folder in this one; without a folder for training, it is all training."""
    found = [name for name, folders in FOLDERS.items() if any((path / folder).is_dir() for folder in folders)]
    return found if "train" in found else ["train"]


def folder_of(path: Path, split: str) -> Path:
    """The folder of a split in this one, or this one."""
    return next((path / name for name in FOLDERS.get(split, ()) if (path / name).is_dir()), path)


@register("data", "folder")
class FolderSource(ListedSource):
    """A folder by the Hugging Face ImageFolder convention: images and their ``metadata.jsonl`` or ``metadata.csv``.

    Args:
        path: the folder.
        skip_bad: leave out rows and images that can't be used, with a warning, instead of raising DataError.
        follow_links: read images that are links to files out of the folder.
    """

    layout = "an image folder with metadata"

    def __init__(self, *, path: str, skip_bad: bool = False, follow_links: bool = False):
        super().__init__(path=path, skip_bad=skip_bad, follow_links=follow_links)
        self._splits: dict[str, Split] = {}

    @classmethod
    def recognises(cls, path: Path) -> bool:
        parts = [path, *(path / folder for folders in FOLDERS.values() for folder in folders)]
        return any((part / name).is_file() for part in parts for name in METADATA)

    def splits(self) -> list[str]:
        return splits_of(self.path)

    def split(self, name: str) -> Split:
        """The folder of a split, read once."""
        if name not in self._splits:
            self._splits[name] = Split(folder_of(self.path, name), self.follow_links)
        return self._splits[name]

    def read_split(self, split: str) -> Listing:
        part = self.split(split)
        rows, problems = part.read
        orphans, notes = part.orphans(), []
        if orphans:
            named = f"{', '.join(orphans[:3])}{', …' if len(orphans) > 3 else ''}"
            notes = [
                f"{len(orphans):,} images in {part.folder} have no row in {part.metadata.name} and are not used ({named})."
            ]
        return Listing(part.folder, rows, problems, notes)

    def fingerprint(self, split: str) -> str:
        part, stamps = self.split(split), []  # without reading the metadata
        for name in sorted(part.files):
            stat = os.stat(part.folder / name)
            stamps.append((name, stat.st_size, stat.st_mtime_ns))
        return key_of(part.metadata.read_bytes(), stamps, self.skip_bad)

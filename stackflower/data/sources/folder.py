"""Images and captions in a folder, by the Hugging Face ImageFolder convention.

The folder of the images holds ``metadata.jsonl``, ``metadata.csv`` or ``metadata.parquet``, with one row per image:
``file_name``, ``text`` (a string or a list of strings), and optionally ``label`` (an integer), ``class_name``,
``attributes`` (an object of names and values) and ``mentioned_attributes`` (for each caption, the attributes that it
mentions). The data may be in split folders ``train``, ``validation`` and ``test``, each with its own metadata, or with
metadata for all splits beside them.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath
from typing import Any

from stackflower.data.files import Files
from stackflower.data.images import EXTENSIONS
from stackflower.data.listed import ListedSource, Listing
from stackflower.data.rows import check_row, parse_row
from stackflower.data.tables import parse_whole_number, read_csv, read_parquet
from stackflower.errors import DataError
from stackflower.formats.lines import number_lines
from stackflower.registry import register
from stackflower.utils.cache import compute_key

METADATA = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
SPLIT_FOLDERS = {"train": ("train",), "validation": ("validation", "val", "valid"), "test": ("test",)}
JSON_COLUMNS = ("text", "attributes", "mentioned_attributes")  # cells of tables may hold lists and objects as JSON


def find_split(word: str) -> str | None:
    """Return the split that a word names, in upper or lower case, or None."""
    return next((split for split, words in SPLIT_FOLDERS.items() if word.lower() in words), None)


def is_image(name: str) -> bool:
    """Return whether the name of a file is that of an image."""
    return PurePosixPath(name).suffix.lower() in EXTENSIONS


def list_splits(files: Files) -> list[str]:
    """List the splits that have a folder; without a training folder, only "train"."""
    splits = [split for split in SPLIT_FOLDERS if list_split_folders(files, split)]
    return splits if "train" in splits else ["train"]


def select_split(files: Files, split: str) -> Files:
    """Return the files in the folder of a split, or all files if it has none."""
    return files.within(next(iter(list_split_folders(files, split)), ""))


def list_split_folders(files: Files, split: str) -> list[str]:
    """List the folders that belong to a split, the usual name first."""
    folders = [name for name in files.folders if "/" not in name and find_split(name) == split]
    return sorted(folders, key=lambda name: (SPLIT_FOLDERS[split].index(name.lower()), name))


def list_unused_images(files: Files) -> list[str]:
    """Report images outside the split folders, or split folders without one for training."""
    if not list_split_folders(files, "train"):
        others = [folder for split in SPLIT_FOLDERS for folder in list_split_folders(files, split)]
        within = tuple(f"{folder}/" for folder in others)
        if not any(is_image(name) and name.startswith(within) for name in files.names):
            return []
        unread = [f"{folder}/{name}" for folder in others if (name := find_metadata(files, folder))]
        ignored = f" Not used: {', '.join(unread)}." if unread else ""
        return [
            f"{files.path} has no folder train, so {', '.join(others)} are not splits but part of the training data. "
            f"Move the other images into a folder train.{ignored}"
        ]
    used = tuple(f"{list_split_folders(files, split)[0]}/" for split in list_splits(files))
    outside = [name for name in files.names if is_image(name) and not name.startswith(used)]
    if not outside:
        return []
    return [
        f"{len(outside):,} images in {files.path} are outside the split folders and are not used, such as {outside[0]}."
    ]


def find_metadata(files: Files, folder: str = "") -> str | None:
    """Return the name of the metadata file at the top level, or in a folder; None without metadata."""
    return next((name for name in METADATA if (f"{folder}/{name}" if folder else name) in files), None)


def _read_jsonl(text: str) -> Iterator[tuple[int, dict[str, Any] | str]]:
    for number, line in number_lines(text):
        row, problem = parse_row(line)
        yield number, problem or row


def _convert_cells(rows: Iterator[tuple[int, dict[str, Any] | str]]) -> Iterator[tuple[int, dict[str, Any] | str]]:
    """Convert labels to integers, and lists and objects from JSON, in the rows of a table."""
    for number, row in rows:
        if isinstance(row, dict):
            label = row.get("label")
            if label in (None, ""):
                row.pop("label", None)
            elif (whole := parse_whole_number(label)) is not None:
                row["label"] = whole
            for key in JSON_COLUMNS:
                cell = row.get(key)
                if isinstance(cell, str) and cell[:1] in ("[", "{"):
                    with contextlib.suppress(ValueError, RecursionError):
                        row[key] = json.loads(cell)
        yield number, row


def _read_rows(files: Files, name: str) -> Iterator[tuple[int, dict[str, Any] | str]]:
    """Yield the line number of each row of metadata, and the row or what is wrong with it."""
    if name.endswith(".jsonl"):
        return _read_jsonl(files.text(name))
    if name.endswith(".csv"):
        return _convert_cells(read_csv(files.text(name), files.path / name))
    return _convert_cells(read_parquet(files.read(name), files.path / name))


def read_metadata(files: Files, folder: str = "", folders: Sequence[str] = (), others: Sequence[str] = ()) -> Listing:
    """Read the rows of the metadata at the top level of `files`.

    Args:
        files: images and metadata.
        folder: split folder whose rows to read. Default: read all rows.
        folders: split folders that share these metadata. Rows outside of all split folders are read with the first.
        others: split folders that have their own metadata.

    Raises:
        DataError: `files` have no metadata.
    """
    name = find_metadata(files)
    if name is None:
        raise _build_metadata_error(files)
    listing, is_first, elsewhere = Listing(files), not folders or folder == folders[0], 0
    for number, row in _read_rows(files, name):
        where = f"{name}, line {number}"
        if isinstance(row, str):
            listing.problems += [f"{where} {row}."] if is_first else []
            continue
        file, problem = _resolve_file(row.get("file_name"), files, listing.named)
        home = _find_home(file, folders, others)
        elsewhere += home is None
        if home != folder:
            continue
        if folders and file in files and file.partition("/")[0] != folder:
            problem = f"names {file}, which is outside the split folders ({', '.join([*folders, *others])})"
        row, row_problem = check_row({**row, "file_name": file})
        if problem or row_problem:
            listing.problems.append(f"{where} {problem or row_problem}.")
        else:
            listing.rows.append(row)
    if not listing.rows and not listing.problems:
        listing.problems.append(f"{files.path / name} has no rows{f' for images in {folder}' if folder else ''}.")
    listing.notes += _list_unused_metadata(files, name, elsewhere, others) if is_first else []
    listing.notes += _list_images_without_row(files, folder, name, listing.named)
    return listing


def _build_metadata_error(files: Files) -> DataError:
    """Build the error for files without metadata, which mentions similar files."""
    similar = [name for name in files.names if "/" not in name and name.endswith((".jsonl", ".json", ".csv", ".txt"))]
    hint = f" If {', '.join(similar[:3])} holds the metadata, rename it." if similar else ""
    nested = next((name for name in files.names if PurePosixPath(name).name in METADATA), None)
    hint += f" It has {nested}; the training folder must be called train." if nested else ""
    hint += next((f" {name} {reason}." for name, reason in files.refused.items()), "")
    return DataError(
        f"{files.path} has no metadata.jsonl, metadata.csv or metadata.parquet.{hint} Each row of the metadata names "
        'an image and its caption, as in {"file_name": "0001.jpg", "text": "a red flower"}.'
    )


def _find_home(file: str, folders: Sequence[str], others: Sequence[str]) -> str | None:
    """Return the split folder with which a row is read; None if that folder has its own metadata.

    Args:
        file: name of the image file.
        folders: split folders that share the metadata; the first also gets the rows outside of all split folders.
        others: split folders that have their own metadata.
    """
    top = file.partition("/")[0]
    if top in others:
        return None
    return top if top in folders else next(iter(folders), "")


def _list_unused_metadata(files: Files, name: str, elsewhere: int, others: Sequence[str]) -> list[str]:
    """Report rows whose folders have their own metadata, and other metadata files."""
    notes = []
    if elsewhere:
        notes.append(
            f"{elsewhere:,} rows of {files.path / name} are not used, because their folders ({', '.join(others)}) have "
            "their own metadata."
        )
    if unused := [other for other in METADATA if other in files and other != name]:
        notes.append(f"{files.path / unused[0]} is not used, because {name} is beside it.")
    return notes


def _list_images_without_row(files: Files, folder: str, metadata: str, named: set[str]) -> list[str]:
    """Report images of a folder, or of all folders, that the metadata don't name."""
    prefix = f"{folder}/" if folder else ""
    images = [name for name in files.names if is_image(name) and name.startswith(prefix) and name not in named]
    if not images:
        return []
    examples = f"{', '.join(images[:3])}{', …' if len(images) > 3 else ''}"
    return [f"{len(images):,} images in {files.path} have no row in {metadata} and are not used ({examples})."]


def _resolve_file(cell: Any, files: Files, seen: set[str]) -> tuple[str, str | None]:
    """Return the file that a row names, and what is wrong with it or None."""
    if not isinstance(cell, str) or not cell:
        return "", 'has no "file_name"'
    name = files.normalise(cell)
    if name in seen:
        return name, f"names {name} a second time"
    seen.add(name)
    if name in files and is_image(name):
        return name, None
    if name in files:
        return name, f"names {name}, which is not an image: names of images end in {', '.join(sorted(EXTENSIONS))}"
    return name, files.explain_missing(name)


@register("data", "folder")
class FolderSource(ListedSource):
    """Folder in the Hugging Face ImageFolder layout: images and ``metadata.jsonl``, ``.csv`` or ``.parquet``."""

    layout = "an image folder with metadata"
    precedence = 10  # metadata are explicit

    @classmethod
    def recognises(cls, files: Files) -> bool:
        folders = ("", *(folder for words in SPLIT_FOLDERS.values() for folder in words))
        return any(find_metadata(files, folder) for folder in folders)

    def find_splits(self) -> list[str]:
        return list_splits(self.files)

    def read_split(self, split: str) -> Listing:
        folders, beside = self._map_folders(), find_metadata(self.files)
        separate = self._list_folders_with_metadata()
        shared = [folder for folder in folders.values() if folder not in separate]
        if beside and folders.get(split) in shared:
            listing = read_metadata(self.files, folders[split], shared, separate)
        else:
            listing = read_metadata(select_split(self.files, split))
        if split == "train":
            listing.notes += list_unused_images(self.files)
            if beside and separate and not shared:
                listing.notes.append(
                    f"{self.path / beside} is not used, because every split folder ({', '.join(separate)}) has its own "
                    "metadata."
                )
        return listing

    def _map_folders(self) -> dict[str, str]:
        """Return the folder of each split; empty without split folders."""
        candidates = {split: list_split_folders(self.files, split) for split in self.find_splits()}
        return {split: folders[0] for split, folders in candidates.items() if folders}

    def _list_folders_with_metadata(self) -> list[str]:
        """List the split folders that have their own metadata."""
        return [folder for folder in self._map_folders().values() if find_metadata(self.files, folder)]

    def fingerprint(self, split: str) -> str:
        if self.share and split == "validation":  # it is drawn from the training images
            split = "train"
        files, digest = select_split(self.files, split), hashlib.blake2b(digest_size=16)
        home = files if find_metadata(files) else self.files
        name = find_metadata(home)
        if name is None:
            return super().fingerprint(split)
        digest.update(home.read(name))  # faster than reading its rows
        for file in files.names:
            if is_image(file):
                digest.update(repr((file, files.stamp(file))).encode("utf-8", "replace"))
        return compute_key(
            digest.hexdigest(),
            self._map_folders(),
            self._list_folders_with_metadata(),
            files.refused,
            files.problems,
            self.skip_bad,
            self.share,
            self.seed,
        )

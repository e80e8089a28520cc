"""Images and captions in a folder, by the Hugging Face ImageFolder convention.

``metadata.jsonl``, ``metadata.csv`` or ``metadata.parquet`` in the folder of the images, a row for each: ``file_name``,
``text`` (a string or a list of strings), and optionally ``label`` (an integer), ``class_name``, ``attributes`` (an
object of names to values) and ``mentioned_attributes`` (for each caption, the attributes it mentions). Split folders
``train``, ``validation`` and ``test``, or none; the metadata are in each, or those of all are beside them.
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
JSON_COLUMNS = ("text", "attributes", "mentioned_attributes")  # a cell of a table may hold a list or an object as JSON


def find_split(word: str) -> str | None:
    """Return the split that a word names, in small letters or capitals, or None."""
    return next((split for split, words in SPLIT_FOLDERS.items() if word.lower() in words), None)


def is_image(name: str) -> bool:
    """Return whether a file is an image, by its name."""
    return PurePosixPath(name).suffix.lower() in EXTENSIONS


def list_splits(files: Files) -> list[str]:
    """List the splits that have a folder among these files; without a folder for training, only "train"."""
    splits = [split for split in SPLIT_FOLDERS if list_split_folders(files, split)]
    return splits if "train" in splits else ["train"]


def select_split(files: Files, split: str) -> Files:
    """Return the files of a split: those of its folder, or all."""
    return files.within(next(iter(list_split_folders(files, split)), ""))


def list_split_folders(files: Files, split: str) -> list[str]:
    """List the folders of a split."""
    folders = [name for name in files.folders if "/" not in name and find_split(name) == split]
    return sorted(folders, key=lambda name: (SPLIT_FOLDERS[split].index(name.lower()), name))


def list_unused_images(files: Files) -> list[str]:
    """Report images that are in no folder of a split, or splits without a folder for training."""
    if not list_split_folders(files, "train"):
        others = [folder for split in SPLIT_FOLDERS for folder in list_split_folders(files, split)]
        within = tuple(f"{folder}/" for folder in others)
        if not any(is_image(name) and name.startswith(within) for name in files.names):
            return []
        unread = [f"{folder}/{name}" for folder in others if (name := find_metadata(files, folder))]
        ignored = f" Not used: {', '.join(unread)}." if unread else ""
        return [
            f"{files.path} has no folder train, so {', '.join(others)} are no splits but part of the training data; "
            f"put the other images into a folder train.{ignored}"
        ]
    used = tuple(f"{list_split_folders(files, split)[0]}/" for split in list_splits(files))
    outside = [name for name in files.names if is_image(name) and not name.startswith(used)]
    if not outside:
        return []
    return [
        f"{len(outside):,} images in {files.path} are in no folder of a split and are not used, such as {outside[0]}."
    ]


def find_metadata(files: Files, folder: str = "") -> str | None:
    """Return the name of the metadata at the top of these files, or of a folder of them; None for none."""
    return next((name for name in METADATA if (f"{folder}/{name}" if folder else name) in files), None)


def _read_jsonl(text: str) -> Iterator[tuple[int, dict[str, Any] | str]]:
    for number, line in number_lines(text):
        row, problem = parse_row(line)
        yield number, problem or row


def _convert_cells(rows: Iterator[tuple[int, dict[str, Any] | str]]) -> Iterator[tuple[int, dict[str, Any] | str]]:
    """Convert labels, lists and objects in the cells of a table."""
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
    """Yield the line and row of each row of metadata, or what is wrong with it."""
    if name.endswith(".jsonl"):
        return _read_jsonl(files.text(name))
    if name.endswith(".csv"):
        return _convert_cells(read_csv(files.text(name), files.path / name))
    return _convert_cells(read_parquet(files.read(name), files.path / name))


def read_metadata(files: Files, folder: str = "", folders: Sequence[str] = (), others: Sequence[str] = ()) -> Listing:
    """Read the rows of the metadata among these files.

    Args:
        files: the images and their metadata.
        folder: folder of the split whose images are read; "" for all images.
        folders: folders of the splits that share these metadata. Rows of none of them are reported with the first.
        others: folders of splits with metadata of their own.

    Raises:
        DataError: `files` have no metadata.
    """
    name = find_metadata(files)
    if name is None:
        raise _build_metadata_error(files)
    listing, reports, elsewhere = Listing(files), not folders or folder == folders[0], 0
    for number, row in _read_rows(files, name):
        where = f"{name}, line {number}"
        if isinstance(row, str):
            listing.problems += [f"{where} {row}."] if reports else []
            continue
        file, problem = _resolve_file(row.get("file_name"), files, listing.named)
        home = _find_home(file, folders, others)
        elsewhere += home is None
        if home != folder:
            continue
        if folders and file in files and file.partition("/")[0] != folder:
            problem = f"names {file}, which is in no folder of a split ({', '.join([*folders, *others])})"
        row, wrong = check_row({**row, "file_name": file})
        if problem or wrong:
            listing.problems.append(f"{where} {problem or wrong}.")
        else:
            listing.rows.append(row)
    if not listing.rows and not listing.problems:
        listing.problems.append(f"{files.path / name} has no rows{f' of images in {folder}' if folder else ''}.")
    listing.notes += _list_unused_metadata(files, name, elsewhere, others) if reports else []
    listing.notes += _list_images_without_row(files, folder, name, listing.named)
    return listing


def _build_metadata_error(files: Files) -> DataError:
    """Build the error for files without metadata; it names files that may be meant as such."""
    near = [name for name in files.names if "/" not in name and name.endswith((".jsonl", ".json", ".csv", ".txt"))]
    hint = f" There is {', '.join(near[:3])}: rename it if it is the metadata." if near else ""
    nested = next((name for name in files.names if PurePosixPath(name).name in METADATA), None)
    hint += f" There is {nested}; the folder for training is named train." if nested else ""
    hint += next((f" {name} {why}." for name, why in files.refused.items()), "")
    return DataError(
        f"{files.path} has no metadata.jsonl, metadata.csv or metadata.parquet.{hint} Each of its rows names an image "
        'and its caption, as in {"file_name": "0001.jpg", "text": "a red flower"}.'
    )


def _find_home(file: str, folders: Sequence[str], others: Sequence[str]) -> str | None:
    """Return the folder of the split that a row is read with; None for one that has metadata of its own.

    Args:
        file: the file that the row names.
        folders: folders of the splits that share the metadata; the first takes what is in none. () for all images.
        others: folders of splits with metadata of their own.
    """
    top = file.partition("/")[0]
    if top in others:
        return None
    return top if top in folders else next(iter(folders), "")


def _list_unused_metadata(files: Files, name: str, elsewhere: int, others: Sequence[str]) -> list[str]:
    """Report rows that are not used, as their folders have metadata of their own, and metadata beside these."""
    notes = []
    if elsewhere:
        notes.append(
            f"{elsewhere:,} rows of {files.path / name} are not used, as of folders with metadata of their own "
            f"({', '.join(others)})."
        )
    if more := [other for other in METADATA if other in files and other != name]:
        notes.append(f"{files.path / more[0]} is not used: {name} is beside it.")
    return notes


def _list_images_without_row(files: Files, folder: str, metadata: str, named: set[str]) -> list[str]:
    """Report images of a folder, or of all, that metadata do not name."""
    prefix = f"{folder}/" if folder else ""
    images = [name for name in files.names if is_image(name) and name.startswith(prefix) and name not in named]
    if not images:
        return []
    listed = f"{', '.join(images[:3])}{', …' if len(images) > 3 else ''}"
    return [f"{len(images):,} images in {files.path} have no row in {metadata} and are not used ({listed})."]


def _resolve_file(given: Any, files: Files, seen: set[str]) -> tuple[str, str | None]:
    """Return the file that a row names, and what is wrong with it or None."""
    if not isinstance(given, str) or not given:
        return "", 'has no "file_name"'
    name = files.normalise(given)
    if name in seen:
        return name, f"names {name} a second time"
    seen.add(name)
    if name in files and is_image(name):
        return name, None
    if name in files:
        return name, f"names {name}, which is no image by its name; images end in {', '.join(sorted(EXTENSIONS))}"
    return name, files.explain_missing(name)


@register("data", "folder")
class FolderSource(ListedSource):
    """A folder by the Hugging Face ImageFolder convention: images and their ``metadata.jsonl``, ``metadata.csv`` or
    ``metadata.parquet``.
    """

    layout = "an image folder with metadata"
    precedence = 10  # metadata say all there is to say

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
                    f"{self.path / beside} is not used: every folder of a split ({', '.join(separate)}) has metadata."
                )
        return listing

    def _map_folders(self) -> dict[str, str]:
        """Return the folder of each split; {} where all is training."""
        named = {split: list_split_folders(self.files, split) for split in self.find_splits()}
        return {split: folders[0] for split, folders in named.items() if folders}

    def _list_folders_with_metadata(self) -> list[str]:
        """List the folders of splits that have metadata of their own."""
        return [folder for folder in self._map_folders().values() if find_metadata(self.files, folder)]

    def fingerprint(self, split: str) -> str:
        if self.share and split == "validation":  # drawn from the images for training
            split = "train"
        files, digest = select_split(self.files, split), hashlib.blake2b(digest_size=16)
        of_metadata = files if find_metadata(files) else self.files
        name = find_metadata(of_metadata)
        if name is None:
            return super().fingerprint(split)
        digest.update(of_metadata.read(name))  # which is faster than to read its rows
        for each in files.names:
            if is_image(each):
                digest.update(repr((each, files.stamp(each))).encode("utf-8", "replace"))
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

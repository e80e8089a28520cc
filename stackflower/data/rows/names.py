"""Resolution of file names in metadata, which may come from another system, folder or computer."""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import PurePosixPath
from posixpath import normpath, splitext
from typing import Any, NamedTuple, TypeVar
from urllib.parse import unquote

from stackflower.data.files import Files
from stackflower.data.image_formats import EXTENSIONS, OTHER_IMAGES, RAW_EXTENSIONS
from stackflower.data.rows.arrow import ImageCell
from stackflower.data.rows.cells import is_missing, parse_whole_number, show
from stackflower.data.splits import find_folder_split

SCHEME = re.compile(r"[a-z][a-z0-9+.-]+://[^/]*|[a-z]:(?=/)", re.IGNORECASE)  # of a URL, or a drive of Windows
CAPTION_NUMBER = re.compile(r"#\d+$")  # Flickr's tables append the number of the caption
UPLOAD_PREFIX = re.compile(r"(?:(?<=/)|^)[0-9a-f]{8}-(?=[^/]+$)")  # Label Studio prepends it to uploaded files
PATH = re.compile(r"(?=.*[^\W\d])\S*[/\\]\S*")
IMAGE_EXTENSIONS = EXTENSIONS | OTHER_IMAGES | RAW_EXTENSIONS
ID_DIGITS = 12  # of the images of COCO
PADDED_ID = re.compile(rf"(?<!\d)\d{{{ID_DIGITS}}}$")
USUAL_FOLDERS = frozenset({"images", "imgs", "img", "flickr30k_images", "flickr30k-images", "flicker8k_dataset"})


Key = TypeVar("Key", str, int)


class Match(NamedTuple):
    """The file that a name refers to.

    Attributes:
        file: name of the file; None if no file fits, or several do.
        is_exact: whether the file lies where the name says.
        problem: reason for the missing match (the end of a sentence); None if there is a match.
    """

    file: str | None
    is_exact: bool = True
    problem: str | None = None


class NameResolver:
    """Resolver of file names in metadata.

    A name is first taken as a path relative to the metadata or to the data set. Otherwise, names are compared after
    Unicode normalisation and case folding, and finally by their endings, so that absolute paths of another computer,
    URLs, ids without an extension (of COCO also without zeros), names of images in another format and of uploads match,
    provided that exactly one file fits.

    Args:
        files: files of the data set.
        folder: folder of the metadata. Only files below it match, unless a name is relative to the data set.
    """

    def __init__(self, files: Files, folder: str = ""):
        self.files, self.folder, self.prefix = files, folder, f"{folder}/" if folder else ""
        self.root = f"{files.path.absolute().as_posix()}/"

    def find(self, name: str) -> Match:
        """Find the file of a name."""
        if (file := self.prefix + name) in self.files:
            return Match(file)
        if not name:
            return Match(None, problem="names no image")
        path, plain = _clean(name), name.strip().replace("\\", "/")
        if plain.startswith(self.root) and (file := normpath(plain[len(self.root) :])) in self.files:
            return Match(file)
        # a name may be relative to the metadata, to a usual folder beside them, or to the data set
        for attempt in dict.fromkeys((path, CAPTION_NUMBER.sub("", path))):
            for place in (self.prefix, *self.usual_places, ""):
                file = normpath(place + attempt)
                if file in self.files:
                    return Match(file, is_exact=not _is_absolute(name))
        return self._find_similar(name, path)

    def _find_similar(self, name: str, path: str) -> Match:
        """Find the only file whose path ends with a name, or whose path a name ends with."""
        key = _make_key(path).lstrip("./")
        plain = CAPTION_NUMBER.sub("", key)
        for attempt in dict.fromkeys((key, plain, _make_key(unquote(path)).lstrip("./"), UPLOAD_PREFIX.sub("", plain))):
            stem, extension = splitext(attempt)
            converted = [(self.by_stem, stem)] if extension in IMAGE_EXTENSIONS else []
            for index, ending in ((self.by_name, attempt), (self.by_stem, attempt), *converted):
                candidates = index.get(ending.rpartition("/")[2], [])
                fitting = [file for file in candidates if _fits(self._relative_key(file, index), ending)]
                if not fitting and _is_absolute(name):
                    fitting = [file for file in candidates if not _contradicts(name, file)]
                longest = max((file.count("/") for file in fitting), default=0)
                best = [file for file in fitting if file.count("/") == longest]
                if len(best) == 1:
                    is_exact = not _is_absolute(name) and _make_key(best[0]) == _make_key(self.prefix + attempt)
                    return Match(best[0], is_exact)
                if best:
                    return Match(None, problem=f"names {show_name(name)}, which may be {best[0]} or {best[1]}")
        ids = self.by_id.get(int(plain), []) if plain.isdecimal() and len(plain) <= ID_DIGITS else []
        if len(ids) == 1:
            return Match(ids[0], is_exact=False)
        return Match(None, problem=self._explain_missing(name, path))

    def _explain_missing(self, name: str, path: str) -> str:
        for file in (self.prefix + path, path):
            for place in (file, *map(str, PurePosixPath(file).parents)):  # a folder may be a link
                if place in self.files.refused:
                    what = "which" if place == file else f"and {place}"
                    return f"names {show_name(name)}, {what} {self.files.refused[place]}"
        return f"names {show_name(name)}, which does not exist"

    def _relative_key(self, file: str, index: dict[str, list[str]]) -> str:
        key = _make_key(file[len(self.prefix) :])
        return _cut_extension(key) if index is self.by_stem else key

    @cached_property
    def usual_places(self) -> list[str]:
        """Prefixes of the names in usual folders beside the metadata, in any case."""
        beside = (folder for folder in self.files.folders if folder.rpartition("/")[0] == self.folder)
        return [f"{folder}/" for folder in sorted(beside) if folder.rpartition("/")[2].lower() in USUAL_FOLDERS]

    @cached_property
    def by_name(self) -> dict[str, list[str]]:
        """Files of the folder, by the last part of their normalised paths."""
        return _index((_make_key(file).rpartition("/")[2], file) for file in self._list_files())

    @cached_property
    def by_stem(self) -> dict[str, list[str]]:
        """Images of the folder, by the last part of their normalised paths without the extension."""
        return _index(
            (_cut_extension(base), file)
            for base, files in self.by_name.items()
            for file in files
            if self.files.is_image(file)
        )

    @cached_property
    def by_id(self) -> dict[int, list[str]]:
        """Images of the folder with ids of COCO, such as ``COCO_val2014_000000391895.jpg``, by the number."""
        ids = ((PADDED_ID.search(stem), files) for stem, files in self.by_stem.items())
        return _index((int(match[0]), file) for match, files in ids if match for file in files)

    def _list_files(self) -> Iterable[str]:
        return (name for name in self.files.names if name.startswith(self.prefix))


def read_name(cell: Any) -> str:
    """Return the file name in a cell, or "" if it has none."""
    if isinstance(cell, str):
        return "" if is_missing(cell) else cell
    if isinstance(cell, ImageCell):
        cell = cell.path
    if isinstance(cell, Mapping):
        cell = cell.get("path") or cell.get("file_name") or cell.get("filename")
    if isinstance(cell, (list, tuple)) and len(cell) == 1:
        cell = cell[0]
    if is_missing(cell) or isinstance(cell, (bytes, bool, list, tuple, Mapping)):
        return ""
    number = parse_whole_number(cell)
    return str(number) if isinstance(cell, float) and number is not None else str(cell)


def looks_like_file(cell: Any) -> bool:
    """Return whether a cell is written like the name of an image file or a path, whether the file exists or not."""
    return has_image_extension(cell) or PATH.fullmatch(CAPTION_NUMBER.sub("", read_name(cell).strip())) is not None


def has_image_extension(cell: Any) -> bool:
    """Return whether a cell ends like the name of an image file."""
    name = CAPTION_NUMBER.sub("", read_name(cell).strip())
    return splitext(name.partition("?")[0] if "://" in name else name)[1].lower() in IMAGE_EXTENSIONS


def are_same(name: str, other: str) -> bool:
    """Return whether two names are equal after normalisation, apart from the number of a caption."""
    keys = [CAPTION_NUMBER.sub("", _make_key(_clean(each))) for each in (name, other)]
    return keys[0] == keys[1]


def _clean(name: str) -> str:
    """Convert a name, possibly a Windows path or a URL, to a path with forward slashes and without a scheme."""
    path = name.strip().replace("\\", "/")
    stripped = SCHEME.sub("", path, count=1)
    return unquote(stripped.partition("?")[0]) if "://" in path and stripped != path else stripped


def _is_absolute(name: str) -> bool:
    path = name.strip().replace("\\", "/")
    return path.startswith(("/", "~")) or SCHEME.match(path) is not None


def _make_key(name: str) -> str:
    """Normalise a name for comparison: one Unicode form, without case."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFKC", name).casefold())


def _fits(file: str, name: str) -> bool:
    """Return whether one path ends with the other, in whole parts."""
    return f"/{file}".endswith(f"/{name}") or f"/{name}".endswith(f"/{file}")


def _contradicts(name: str, file: str) -> bool:
    """Return whether the folders of a name and of a file name different splits."""
    splits = [
        next(filter(None, map(find_folder_split, reversed(path.replace("\\", "/").split("/")[:-1]))), None)
        for path in (name, file)
    ]
    return None not in splits and splits[0] != splits[1]


def _cut_extension(path: str) -> str:
    stem, dot, extension = path.rpartition(".")
    return stem if dot and "/" not in extension and not stem.endswith("/") else path


def _index(pairs: Iterable[tuple[Key, str]]) -> dict[Key, list[str]]:
    index = defaultdict[Key, list[str]](list)
    for key, file in pairs:
        index[key].append(file)
    return dict(index)


def show_name(name: str) -> str:
    """Format a name for a message; unchanged if it is short and printable."""
    return name if len(name) <= 200 and name.isprintable() else show(name)

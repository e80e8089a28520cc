"""Files of a data set, in a folder or in an archive, which is read in place."""

from __future__ import annotations

import os
import re
from abc import ABC, abstractmethod
from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

from stackflower.data.image_formats import (
    HEAD_SIZE,
    TEXT_HEAD_SIZE,
    decide_by_name,
    explain_lfs_pointer,
    explain_not_image,
    is_readable_image,
)
from stackflower.errors import DataError
from stackflower.utils.open_files import explain_read_error

# Files that a system, an editor or a file server keeps beside those of the user.
HIDDEN = re.compile(r"(?:^|/)(?:\.|__MACOSX/|@eaDir/|\$RECYCLE\.BIN/|(?:Thumbs\.db|desktop\.ini)$)", re.IGNORECASE)
UNDECODABLE_REASON = "has a name that is not UTF-8; rename it"
LINK_REASON = "is a link out of the folder; `data.follow_links=true` reads such files"


class Files(ABC):
    """Files by their names, which are relative paths with forward slashes. Hidden files are left out.

    Args:
        path: folder or archive.
    """

    def __init__(self, path: Path):
        self.path = path
        self.problems: list[str] = []  # sentences about the folder or archive as a whole
        self.refused: dict[str, str] = {}  # reason for each file that is not read, by name: the end of a sentence
        self._image_by_content: dict[str, bool] = {}  # whether files are images whose names don't tell

    @cached_property
    def entries(self) -> dict[str, Any]:
        """How to find each file, by name, in alphabetical order."""
        entries = {name: entry for name, entry in self.list_entries() if not is_hidden(name)}
        for name in [name for name in entries if is_undecodable(name)]:
            del entries[name]
            self.refused[escape_name(name)] = UNDECODABLE_REASON
        return dict(sorted(entries.items()))

    @property
    def names(self) -> list[str]:
        """Names of all files that can be read."""
        return list(self.entries)

    def __contains__(self, name: object) -> bool:
        return name in self.entries

    @abstractmethod
    def list_entries(self) -> Iterator[tuple[str, Any]]:
        """Yield the name and entry of each file that may be read; note the others in `refused`."""

    @abstractmethod
    def stamp(self, name: str) -> object:
        """Return a value that changes when the file changes, without reading the whole file."""

    @abstractmethod
    def read(self, name: str) -> bytes:
        """Read a file.

        Raises:
            DataError: the file can't be read.
        """

    def head(self, name: str, size: int = HEAD_SIZE) -> bytes:
        """Read the first bytes of a file; fewer if the file is shorter.

        Raises:
            DataError: the file can't be read.
        """
        return self.read(name)[:size]

    def is_image(self, name: str) -> bool:
        """Return whether a file is an image: by its extension or, if that does not tell, by its first bytes."""
        by_name = decide_by_name(name)
        if by_name is not None or name not in self.entries:
            return bool(by_name)
        if name not in self._image_by_content:
            try:
                self._image_by_content[name] = is_readable_image(self.head(name))
            except DataError:
                self._image_by_content[name] = False
        return self._image_by_content[name]

    @cached_property
    def images(self) -> list[str]:
        """Names of all images, in order."""
        return [name for name in self.entries if self.is_image(name)]

    def explain_not_image(self, name: str) -> str:
        """Explain what a file is that is not an image: the end of a sentence that begins with its name."""
        try:
            return explain_not_image(name, self.head(name, TEXT_HEAD_SIZE))
        except DataError as error:
            return f"is not an image that can be read: {str(error).rstrip('.')}"

    def order_for_reading(self, names: Iterable[str]) -> list[str]:
        """Sort names into the order in which reading is fastest."""
        return list(names)

    def locate(self, name: str) -> Path | None:
        """Return the path of a file, if it lies on disk as it is, and not in an archive."""
        return None

    def text(self, name: str, encoding: str | None = None) -> str:
        """Read a text file.

        Args:
            name: name of the file.
            encoding: its encoding. Default: UTF-8, or UTF-16 with a byte order mark.

        Raises:
            DataError: the file does not exist, can't be read, or is encoded otherwise.
        """
        if name not in self.entries:
            raise DataError(f"{self.path} has no {name}.")
        return decode_text(self.read(name), self.path / name, encoding)

    @cached_property
    def folders(self) -> set[str]:
        """Names of all folders that hold files."""
        folders = set[str]()
        for name in self.entries:
            folder = name.rpartition("/")[0]
            while folder and folder not in folders:
                folders.add(folder)
                folder = folder.rpartition("/")[0]
        return folders

    def has_folder(self, name: str) -> bool:
        """Return whether a folder of this name holds files."""
        return name in self.folders

    def within(self, folder: str) -> Files:
        """Return the files of a folder, with names relative to it; for "", all files."""
        return _Subfolder(self, folder) if folder else self


class Folder(Files):
    """Files in a folder.

    Args:
        path: the folder.
        follow_links: follow links that lead out of the folder.
    """

    def __init__(self, path: Path, follow_links: bool = False):
        super().__init__(path)
        self.follow_links = follow_links

    def list_entries(self) -> Iterator[tuple[str, Any]]:
        root = _find_hub_repository(os.path.realpath(self.path))
        pending, visited = [("", str(self.path))], {root}
        while pending:
            prefix, folder = pending.pop()
            try:
                entries = list(os.scandir(folder))
            except OSError as error:
                self.problems.append(f"{folder} can't be opened ({explain_read_error(error)}).")
                continue
            for entry in entries:
                name, link = prefix + entry.name, entry.is_symlink()
                if (link or entry.is_dir(follow_symlinks=False)) and (is_hidden(name) or is_hidden(f"{name}/")):
                    continue  # `entries` leaves out hidden files
                if link and not self.follow_links and not _is_inside(entry.path, root):
                    self.refused[name] = LINK_REASON
                    continue
                try:
                    is_folder, is_file = entry.is_dir(), entry.is_file()
                except OSError:  # the link is part of a circle
                    is_folder = is_file = False
                if link and not is_folder and not is_file:
                    self.refused[name] = "is a link that leads nowhere"
                if is_file:
                    yield name, entry.path
                elif is_folder:
                    real = os.path.realpath(entry.path)
                    if not link or real not in visited:  # a link may lead to one of its parent folders
                        visited |= {real} if link else set()
                        pending.append((f"{name}/", entry.path))

    def locate(self, name: str) -> Path | None:
        return Path(self.entries[name])

    def stamp(self, name: str) -> object:
        status = os.stat(self.entries[name])
        return status.st_size, status.st_mtime_ns

    def read(self, name: str) -> bytes:
        return self.head(name, -1)

    def head(self, name: str, size: int = HEAD_SIZE) -> bytes:
        try:
            with open(self.entries[name], "rb", buffering=0 if 0 <= size <= TEXT_HEAD_SIZE else -1) as file:
                return file.read(size)
        except OSError as error:
            raise DataError(f"{self.path / name} can't be read: {explain_read_error(error)}.") from error


class _Subfolder(Files):
    """The files of a folder among other files."""

    def __init__(self, whole: Files, folder: str):
        super().__init__(whole.path / folder)
        self.whole, self.prefix = whole, f"{folder}/"
        self.problems = whole.problems
        self.refused = {
            name[len(self.prefix) :]: why for name, why in whole.refused.items() if name.startswith(self.prefix)
        }

    def list_entries(self) -> Iterator[tuple[str, Any]]:
        return (
            (name[len(self.prefix) :], entry)
            for name, entry in self.whole.entries.items()
            if name.startswith(self.prefix)
        )

    def locate(self, name: str) -> Path | None:
        return self.whole.locate(self.prefix + name)

    def stamp(self, name: str) -> object:
        return self.whole.stamp(self.prefix + name)

    def read(self, name: str) -> bytes:
        return self.whole.read(self.prefix + name)

    def head(self, name: str, size: int = HEAD_SIZE) -> bytes:
        return self.whole.head(self.prefix + name, size)

    def is_image(self, name: str) -> bool:
        return self.whole.is_image(self.prefix + name)

    def order_for_reading(self, names: Iterable[str]) -> list[str]:
        ordered = self.whole.order_for_reading(self.prefix + name for name in names)
        return [name[len(self.prefix) :] for name in ordered]


def decode_text(content: bytes, where: Path, encoding: str | None = None, advice: str = "save it as UTF-8") -> str:
    """Decode the content of a text file (see `Files.text`).

    Raises:
        DataError: the text is encoded otherwise, the encoding is unknown, or the file is a Git LFS pointer.
    """
    if reason := explain_lfs_pointer(content):
        raise DataError(f"{where} {reason}.")
    detected = "utf-16" if content.startswith((BOM_UTF16_LE, BOM_UTF16_BE)) else "utf-8-sig"
    try:
        return content.decode(encoding or detected)
    except LookupError as error:
        raise DataError(f"Unknown encoding {encoding!r}; use one of Python's, such as utf-8 or cp1252.") from error
    except UnicodeError as error:
        name = encoding or ("UTF-16" if detected == "utf-16" else "UTF-8")
        raise DataError(f"{where} is not a text file in {name} ({error}); {advice}.") from error


def _find_hub_repository(path: str) -> str:
    """Return the folder that links may lead to: the path, or its repository in the cache of the Hugging Face hub.

    A snapshot in that cache consists of links to the folder ``blobs`` beside ``snapshots``.
    """
    repository, found, _ = path.rpartition(f"{os.sep}snapshots{os.sep}")
    return repository if found and os.path.isdir(os.path.join(repository, "blobs")) else path


def _is_inside(path: str, root: str) -> bool:
    return os.path.realpath(path).startswith(root.rstrip(os.sep) + os.sep)


def is_hidden(name: str) -> bool:
    """Return whether a file is left out, because its name or a folder of it says that it is not the user's."""
    return HIDDEN.search(name) is not None


def is_undecodable(name: str) -> bool:
    """Return whether the bytes of a name are not UTF-8."""
    return not name.isprintable() and any("\ud800" <= character <= "\udfff" for character in name)


def escape_name(name: str) -> str:
    """Return a name for a message, with escapes for bytes that are not UTF-8."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")

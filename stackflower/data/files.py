"""The files of a data set, in a folder or in an archive, which is read in place."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from stackflower.errors import DataError

LINK_OUT = "is a link out of the folder; `data.follow_links=true` reads such files"


class Files(ABC):
    """Files by name: relative, with forward slashes. Hidden files are left out.

    Args:
        path: of the folder or the archive.
    """

    def __init__(self, path: Path):
        self.path = path
        self.problems: list[str] = []  # of the archive as a whole, a sentence each
        self.refused: dict[str, str] = {}  # names of files that are not read, and why: the end of a sentence

    @cached_property
    def entries(self) -> dict[str, Any]:
        """What is known of each file, by name, in alphabetical order."""
        found = {name: entry for name, entry in self.listed() if not _hidden(name)}
        for name in [name for name in found if not name.isprintable() and _undecodable(name)]:
            del found[name]
            shown = name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
            self.refused[shown] = "has a name that is not UTF-8; rename it"
        return dict(sorted(found.items()))

    @property
    def names(self) -> list[str]:
        """Names of all files that can be read."""
        return list(self.entries)

    def __contains__(self, name: object) -> bool:
        return name in self.entries

    @abstractmethod
    def listed(self) -> Iterator[tuple[str, Any]]:
        """Name and entry of each file; what must not be read is noted in `refused`."""

    @abstractmethod
    def stamp(self, name: str) -> object:
        """What changes with a file's content, without reading it."""

    @abstractmethod
    def read(self, name: str) -> bytes:
        """A file's content. DataError where it can't be read."""

    def in_order(self, names: Iterable[str]) -> list[str]:
        """These names in the order in which they are read fastest."""
        return list(names)

    def text(self, name: str) -> str:
        """A text file in UTF-8, or in UTF-16 with its mark. DataError for any other, or where there is none."""
        if name not in self.entries:
            raise DataError(f"{self.path} has no {name}.")
        content = self.read(name)
        try:
            return content.decode("utf-16" if content.startswith((BOM_UTF16_LE, BOM_UTF16_BE)) else "utf-8-sig")
        except UnicodeDecodeError as error:
            raise DataError(f"{self.path / name} is not a text file in UTF-8 ({error}); save it as UTF-8.") from error

    def why_not(self, name: str) -> str:
        """Why a file can't be read: the end of a sentence that begins with what names it."""
        if name in self.refused:
            return f"names {name}, which {self.refused[name]}"
        return f"names {name}, and there is no such image"

    def named(self, given: str) -> str:
        """The file that metadata name: exactly so, or as other systems write it."""
        return given if given in self.entries else PurePosixPath(given.replace("\\", "/")).as_posix()

    @cached_property
    def folders(self) -> set[str]:
        """Names of the folders with files in them."""
        found = set[str]()
        for name in self.entries:
            folder = name.rpartition("/")[0]
            while folder and folder not in found:
                found.add(folder)
                folder = folder.rpartition("/")[0]
        return found

    def folder(self, name: str) -> bool:
        """Whether there is a folder with files in it."""
        return name in self.folders

    def within(self, folder: str) -> Files:
        """The files of a folder."""
        return _Within(self, folder) if folder else self


class Folder(Files):
    """Files in a folder.

    Args:
        path: the folder.
        follow_links: read links to files and folders elsewhere.
    """

    def __init__(self, path: Path, follow_links: bool = False):
        super().__init__(path)
        self.follow_links = follow_links

    def listed(self) -> Iterator[tuple[str, Any]]:
        root = os.path.realpath(self.path)
        pending, visited = [("", str(self.path))], {root}
        while pending:
            prefix, folder = pending.pop()
            try:
                entries = list(os.scandir(folder))
            except OSError as error:
                self.problems.append(f"{folder} can't be opened ({error.strerror}).")
                continue
            for entry in entries:
                name, link = prefix + entry.name, entry.is_symlink()
                if link and not self.follow_links and not _inside(entry.path, root):
                    self.refused[name] = LINK_OUT
                    continue
                try:
                    folder_there, file_there = entry.is_dir(), entry.is_file()
                except OSError:  # a link in a circle
                    folder_there = file_there = False
                if link and not folder_there and not file_there:
                    self.refused[name] = "is a link that leads nowhere"
                if file_there:
                    yield name, entry.path
                elif folder_there:
                    real = os.path.realpath(entry.path)
                    if not link or real not in visited:  # a link may lead to a folder above it
                        visited |= {real} if link else set()
                        pending.append((f"{name}/", entry.path))

    def stamp(self, name: str) -> object:
        found = os.stat(self.entries[name])
        return found.st_size, found.st_mtime_ns

    def read(self, name: str) -> bytes:
        try:
            with open(self.entries[name], "rb") as file:
                return file.read()
        except OSError as error:
            raise DataError(f"{self.path / name} can't be read: {error.strerror}.") from error


class _Within(Files):
    """The files of a folder of other files."""

    def __init__(self, whole: Files, folder: str):
        super().__init__(whole.path / folder)
        self.whole, self.prefix = whole, f"{folder}/"
        self.problems = whole.problems
        self.refused = {
            name[len(self.prefix) :]: why for name, why in whole.refused.items() if name.startswith(self.prefix)
        }

    def listed(self) -> Iterator[tuple[str, Any]]:
        return (
            (name[len(self.prefix) :], entry)
            for name, entry in self.whole.entries.items()
            if name.startswith(self.prefix)
        )

    def stamp(self, name: str) -> object:
        return self.whole.stamp(self.prefix + name)

    def read(self, name: str) -> bytes:
        return self.whole.read(self.prefix + name)

    def in_order(self, names: Iterable[str]) -> list[str]:
        whole = self.whole.in_order(self.prefix + name for name in names)
        return [name[len(self.prefix) :] for name in whole]


def _inside(path: str, root: str) -> bool:
    return os.path.realpath(path).startswith(root.rstrip(os.sep) + os.sep)


def _hidden(name: str) -> bool:
    return name.startswith((".", "__MACOSX/")) or "/." in name


def _undecodable(name: str) -> bool:
    return any("\ud800" <= character <= "\udfff" for character in name)

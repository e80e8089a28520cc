"""Data sets in zip and tar archives, which are read in place."""

from __future__ import annotations

import bz2
import gzip
import lzma
import shutil
import stat
import tarfile
import threading
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from stackflower.data.files import Files, Folder
from stackflower.errors import DataError
from stackflower.utils.atomic import replacing
from stackflower.utils.cache import cache_folder, key_of, not_writable

LARGEST_FILE = 2**30  # bytes of a file in an archive, unpacked
LARGEST_RATIO = 200  # of the unpacked size of an archive to its own; more is a decompression bomb, unless it is small
SMALL = 2**30  # bytes, unpacked
MOST_FILES = 50_000_000
COMPRESSED: dict[str, Callable[..., Any]] = {
    ".gz": gzip.open,
    ".tgz": gzip.open,
    ".bz2": bz2.open,
    ".xz": lzma.open,
}
ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
KEPT_AT_THE_TOP = frozenset({"train", "validation", "val", "valid", "test", "images", "jpg", "annotations"})


class Zip(Files):
    """Files in a zip archive."""

    def __init__(self, path: Path):
        super().__init__(path)
        try:
            self.archive = zipfile.ZipFile(path)
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
            raise DataError(f"{path} can't be read as a zip archive ({error}).") from error

    def listed(self) -> Iterator[tuple[str, Any]]:
        infos, packed = self.archive.infolist(), self.path.stat().st_size
        _limit(self.path, len(infos), sum(info.file_size for info in infos), packed)
        seen = set[str]()
        for info in infos:
            if info.is_dir():
                continue
            mode, name = info.external_attr >> 16, info.filename.removeprefix("./")
            if "/" not in name:
                name = name.replace("\\", "/")  # as some programs for Windows write it
            reason = _unsafe(name)
            if reason is None and stat.S_ISLNK(mode):
                reason = "is a link, and links in archives are not followed"
            if reason is None and info.flag_bits & 1:
                reason = "is encrypted; unpack the archive"
            reason = reason or _too_large(info.file_size) or ("is there twice" if name in seen else None)
            seen.add(name)
            if reason:
                self.refused[name] = reason
            else:
                yield name, info

    def stamp(self, name: str) -> object:
        info = self.entries[name]
        return info.file_size, info.CRC

    def read(self, name: str) -> bytes:
        info = self.entries[name]
        try:
            with self.archive.open(info) as file:
                return file.read(info.file_size + 1)
        except (
            zipfile.BadZipFile,
            zlib.error,
            lzma.LZMAError,
            OSError,
            EOFError,
            NotImplementedError,
            RuntimeError,
        ) as error:
            raise DataError(f"{self.path / name} can't be read: the archive is damaged ({error}).") from error

    def in_order(self, names: Iterable[str]) -> list[str]:
        return sorted(names, key=lambda name: self.entries[name].header_offset)


class Tar(Files):
    """Files in a tar archive. A compressed one is unpacked once, to a plain tar file in the cache."""

    def __init__(self, path: Path):
        super().__init__(path)
        opener = COMPRESSED.get(path.suffix.lower())
        self.plain = path if opener is None else _unpacked(path, opener)
        self.read_part = PartReader()

    def listed(self) -> Iterator[tuple[str, Any]]:
        for name, entry in tar_entries(self.plain, self.path, self.problems, self.refused):
            if reason := _unsafe(name) or _too_large(entry[1]):
                self.refused[name] = reason
            else:
                yield name, entry

    def stamp(self, name: str) -> object:
        found = self.path.stat()
        return self.entries[name], found.st_size, found.st_mtime_ns

    def read(self, name: str) -> bytes:
        return self.read_part(self.plain, *self.entries[name])

    def in_order(self, names: Iterable[str]) -> list[str]:
        return sorted(names, key=lambda name: self.entries[name][0])


def open_files(path: Path, follow_links: bool = False) -> Files:
    """The files of a folder, or of a zip or tar archive; of an archive that holds a single folder, those of the folder. DataError where
    there is neither."""
    if path.is_dir():
        return Folder(path, follow_links)
    if not path.is_file():
        raise DataError(
            f"There is no folder {str(path)!r}. `data` takes a folder of images with captions, an archive of one, shards, or synthetic-flowers."
        )
    # by its name first: a tar file that ends with a zip archive is read as one by zipfile
    if path.suffix.lower() != ".zip" and is_archive(path):
        files: Files = Tar(path)
    elif path.suffix.lower() == ".zip" or zipfile.is_zipfile(path):
        files = Zip(path)
    else:
        raise DataError(
            f"{path} is not an archive that can be read: `data` takes a folder, or a file that ends in {', '.join(ARCHIVES)}."
        )
    tops = {name.partition("/")[0] if "/" in name else "" for name in files.names}
    (top,) = tops if len(tops) == 1 else ("",)
    return files.within(top if top not in KEPT_AT_THE_TOP else "")


def is_archive(path: Path | str) -> bool:
    """Whether a file is an archive, by its name."""
    return str(path).lower().endswith(ARCHIVES)


def tar_entries(
    path: Path, named: Path, problems: list[str], refused: dict[str, str]
) -> Iterator[tuple[str, tuple[int, int]]]:
    """Name, and position and size in bytes, of each file in a plain tar file, in its order. One that is cut off ends with a problem; links and the like
    are refused. DataError for a file that is not a plain tar file.

    Args:
        path: of the file.
        named: how messages name it.
    """
    seen, whole, length = set[str](), True, path.stat().st_size
    try:
        with tarfile.open(path, "r:") as archive:
            try:
                for member in archive:
                    archive.members = []  # type: ignore[attr-defined]  # which it would keep
                    name = member.name.removeprefix("./")
                    if member.isdir():
                        continue
                    if not member.isreg() or member.issparse():
                        refused[name] = "is a link or a special file, and those in archives are not followed"
                    elif name in seen:
                        refused[name] = "is there twice"
                    elif member.size < 0:
                        refused[name] = "has a size below 0"
                    elif member.offset_data + member.size > length:
                        problems.append(f"{named} is cut off in the middle of {name}.")
                        whole = False
                    else:
                        yield name, (member.offset_data, member.size)
                    seen.add(name)
                    if len(seen) > MOST_FILES:
                        raise DataError(f"{named} holds more than {MOST_FILES:,} files.")
            except tarfile.ReadError:  # in the middle of a member
                if whole:
                    problems.append(f"{named} is cut off, and files may be missing.")
                return
            end = archive.offset
    except (tarfile.TarError, OSError, ValueError, OverflowError, RecursionError) as error:
        raise DataError(f"{named} can't be read as a tar file ({error}).") from error
    if whole and not _ends(path, end):
        problems.append(f"{named} has no mark of the end of a tar file: it is cut off, and files may be missing.")
    elif whole and _goes_on(path, end):
        problems.append(
            f"{named} goes on after the mark of its end, where nothing is read: it may be several tar files in one."
        )


class PartReader:
    """Reads parts of files; the file that was read last stays open."""

    def __init__(self) -> None:
        self.path: Path | None = None
        self.file: BinaryIO | None = None
        self.lock = threading.Lock()  # two threads would move each other's place

    def __call__(self, path: Path, offset: int, size: int) -> bytes:
        """`size` bytes from `offset`. DataError where they can't be read."""
        try:
            with self.lock:
                if self.file is None or path != self.path:
                    if self.file is not None:
                        self.file.close()
                    self.path, self.file = path, path.open("rb")
                self.file.seek(offset)
                return self.file.read(size)
        except OSError as error:
            raise DataError(f"{path} can't be read: {error.strerror}.") from error


def _ends(path: Path, offset: int) -> bool:
    """Whether a tar file has its end mark, a block of zeros, at the offset to which it was read or before it."""
    with path.open("rb") as handle:
        for start in (offset - tarfile.BLOCKSIZE, offset):
            handle.seek(max(start, 0))
            block = handle.read(tarfile.BLOCKSIZE)
            if len(block) == tarfile.BLOCKSIZE and not any(block):
                return True
    return False


def _goes_on(path: Path, offset: int) -> bool:
    """Whether anything but zeros comes after an offset."""
    with path.open("rb") as handle:
        handle.seek(offset)
        while block := handle.read(2**20):
            if block.count(0) != len(block):
                return True
    return False


def _unpacked(path: Path, opener: Callable[..., Any]) -> Path:
    """The plain tar file of a compressed one, in the cache."""
    packed = path.stat()
    plain = cache_folder("archives") / f"{key_of(str(path.resolve()), packed.st_size, packed.st_mtime_ns)}.tar"
    if plain.exists():
        return plain
    written = 0
    try:
        with opener(path, "rb") as source, replacing(plain) as temporary, temporary.open("wb") as out:
            while part := source.read(2**22):
                written += len(part)
                _limit(path, 0, written, packed.st_size)
                out.write(part)
    except (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile) as error:
        raise DataError(f"{path} is cut off or damaged ({error}).") from error
    except OSError as error:
        if shutil.disk_usage(plain.parent).free > 2**22 and not isinstance(error, PermissionError):
            raise DataError(f"{path} is cut off or damaged ({error}).") from error  # bz2's errors are OSError too
        raise not_writable(plain.parent, error) from error
    return plain


def _limit(path: Path, count: int, size: int, packed: int) -> None:
    if count > MOST_FILES:
        raise DataError(f"{path} holds {count:,} files; at most {MOST_FILES:,} are read.")
    if size > SMALL and size > packed * LARGEST_RATIO:
        raise DataError(
            f"{path} unpacks to {size / 2**30:,.1f} GiB or more from {packed / 2**20:,.1f} MiB, as no pictures do: it is not read."
        )


def _too_large(size: int) -> str | None:
    return (
        f"is larger than {LARGEST_FILE:,} bytes" if size > LARGEST_FILE else "has a size below 0" if size < 0 else None
    )


def _unsafe(name: str) -> str | None:
    """What is wrong with the name of a file in an archive, or None."""
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or (path.parts and path.parts[0].endswith(":")):
        return "leads out of the archive"
    return None

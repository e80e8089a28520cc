"""Zip and tar archives of data sets, which are read in place."""

from __future__ import annotations

import bz2
import gzip
import lzma
import shutil
import stat
import struct
import tarfile
import threading
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from itertools import takewhile
from pathlib import Path
from typing import Any, BinaryIO

from stackflower.data.files import UNDECODABLE_REASON, Files, Folder, escape_name, is_undecodable
from stackflower.data.image_formats import HEAD_SIZE, explain_lfs_pointer, read_head
from stackflower.data.splits import find_folder_split
from stackflower.errors import DataError
from stackflower.utils.atomic import replacing
from stackflower.utils.cache import build_cache_error, compute_key, make_cache_folder
from stackflower.utils.open_files import explain_read_error

LARGEST_FILE = 2**30  # bytes of an unpacked file
LARGEST_RATIO = 200  # of unpacked to packed size; beyond it, all but small archives are decompression bombs
SMALL_ARCHIVE = 2**30  # bytes, unpacked
MOST_FILES = 50_000_000
# Exceptions that zipfile and the decompressors raise for damaged archives.
DAMAGE = (
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, OSError, EOFError, ValueError),
    *(IndexError, OverflowError, NotImplementedError, RuntimeError),
)
DECOMPRESSORS: dict[str, Callable[..., Any]] = {
    ".gz": gzip.open,
    ".tgz": gzip.open,
    ".bz2": bz2.open,
    ".xz": lzma.open,
}
ARCHIVE_SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
TOP_FOLDERS = frozenset({"", "images", "jpg", "annotations"})


class Zip(Files):
    """Files in a zip archive."""

    def __init__(self, path: Path):
        super().__init__(path)
        try:
            self.archive = zipfile.ZipFile(path)
        except DAMAGE as error:
            raise DataError(f"{path} can't be read as a zip archive ({error}).") from error

    def list_entries(self) -> Iterator[tuple[str, Any]]:
        infos, packed = self.archive.infolist(), self.path.stat().st_size
        _check_limits(self.path, len(infos), sum(info.file_size for info in infos), packed)
        seen = set[str]()
        for info in infos:
            if info.filename.endswith("/"):
                continue
            mode, name = info.external_attr >> 16, info.filename
            if "/" not in name:
                name = name.replace("\\", "/")  # some programs for Windows write backslashes
            name = _simplify_name(name)
            reason = _explain_unsafe_name(name)
            if reason is None and stat.S_ISLNK(mode):
                reason = "is a link, which is not followed in archives"
            if reason is None and info.flag_bits & 1:
                reason = "is encrypted; unpack the archive"
            reason = reason or _explain_bad_size(info.file_size) or ("occurs twice" if name in seen else None)
            seen.add(name)
            if reason:
                self.refused[name] = reason
            else:
                yield name, info

    def stamp(self, name: str) -> object:
        info = self.entries[name]
        return info.file_size, info.CRC

    def read(self, name: str) -> bytes:
        return self.head(name, self.entries[name].file_size + 1)

    def head(self, name: str, size: int = HEAD_SIZE) -> bytes:
        try:
            with self.archive.open(self.entries[name]) as file:
                return file.read(size)
        except DAMAGE as error:
            raise DataError(f"{self.path / name} can't be read: the archive is damaged ({error}).") from error

    def order_for_reading(self, names: Iterable[str]) -> list[str]:
        return sorted(names, key=lambda name: self.entries[name].header_offset)


class Tar(Files):
    """Files in a tar archive. A compressed archive is decompressed once, into a plain tar file in the cache."""

    def __init__(self, path: Path):
        super().__init__(path)
        decompress = DECOMPRESSORS.get(path.suffix.lower())
        self.plain = path if decompress is None else _unpack(path, decompress)
        self.read_part = PartReader()

    def list_entries(self) -> Iterator[tuple[str, Any]]:
        for name, entry in read_tar_entries(self.plain, self.path, self.problems, self.refused):
            if reason := _explain_bad_size(entry[1]):
                self.refused[name] = reason
            else:
                yield name, entry

    def stamp(self, name: str) -> object:
        status = self.path.stat()
        return self.entries[name], status.st_size, status.st_mtime_ns

    def read(self, name: str) -> bytes:
        return self.read_part(self.plain, *self.entries[name])

    def head(self, name: str, size: int = HEAD_SIZE) -> bytes:
        offset, length = self.entries[name]
        return self.read_part(self.plain, offset, min(size, length))

    def order_for_reading(self, names: Iterable[str]) -> list[str]:
        return sorted(names, key=lambda name: self.entries[name][0])


def open_files(path: Path, follow_links: bool = False, enters: bool = False) -> Files:
    """Open the files of a folder or archive; an archive that holds only one folder is opened at that folder.

    Args:
        path: folder, or zip or tar archive.
        follow_links: read files behind links that lead out of a folder.
        enters: also open a folder that holds only one folder at that one, unless it is named like a part of a data set.

    Raises:
        DataError: the path does not exist, or is neither a folder nor an archive.
    """
    if path.is_dir():
        files: Files = Folder(path, follow_links)
        return _enter_only_folder(files) if enters else files
    if not path.is_file():
        raise DataError(
            f"{str(path)!r} does not exist. `data` takes a folder of images with captions, an archive of such a "
            "folder, shards, or synthetic-flowers."
        )
    # The name comes first, because zipfile also accepts a tar file whose last member is a zip archive.
    if path.suffix.lower() != ".zip" and is_archive(path):
        files = Tar(path)
    elif path.suffix.lower() == ".zip" or zipfile.is_zipfile(path):
        files = Zip(path)
    else:
        raise DataError(
            f"{path} is not an archive that can be read; expected a folder, or a file that ends in "
            f"{', '.join(ARCHIVE_SUFFIXES)}."
        )
    return _enter_only_folder(files)


def _enter_only_folder(files: Files) -> Files:
    """Return the files of the only folder, and of the only one in it, and so on."""
    parts = [tuple(name.split("/")[:-1]) for name in files.names]
    pairs = zip(min(parts, default=()), max(parts, default=()), strict=False)
    shared = takewhile(lambda folder: folder not in TOP_FOLDERS, (one if one == other else "" for one, other in pairs))
    return files.within("/".join(takewhile(lambda folder: not find_folder_split(folder), shared)))


def is_archive(path: Path | str) -> bool:
    """Return whether the name of a file is that of an archive."""
    return str(path).lower().endswith(ARCHIVE_SUFFIXES)


def read_tar_entries(
    path: Path, shown: Path, problems: list[str], refused: dict[str, str]
) -> Iterator[tuple[str, tuple[int, int]]]:
    """Yield the name, and the offset and size in bytes, of each file in a plain tar file, in its order.

    Args:
        path: the tar file.
        shown: path to show in messages.
        problems: gets a sentence if the tar file is cut off or continues after its end mark.
        refused: gets the reason for each file that is not read, such as a link or a name that leads out of the archive.

    Raises:
        DataError: the file is not a plain tar file.
    """
    seen, whole, length = set[str](), True, path.stat().st_size
    try:
        with tarfile.open(path, "r:") as archive:
            try:
                for member in archive:
                    archive.members = []  # type: ignore[attr-defined]  # or they would fill the memory
                    name = _simplify_name(member.name)
                    if member.isdir():
                        continue
                    if reason := _explain_unread_member(member, name, seen):
                        refused[escape_name(name)] = reason
                    elif member.offset_data + member.size > length:
                        problems.append(f"{shown} is cut off in the middle of {name}.")
                        whole = False
                    else:
                        yield name, (member.offset_data, member.size)
                    seen.add(name)
                    if len(seen) > MOST_FILES:
                        raise DataError(f"{shown} holds more than {MOST_FILES:,} files.")
            except tarfile.ReadError:  # in the middle of a member
                if whole:
                    problems.append(f"{shown} is cut off; files may be missing.")
                return
            end = archive.offset
    except (tarfile.TarError, OSError, ValueError, OverflowError, RecursionError) as error:
        if path.is_file() and (reason := explain_lfs_pointer(read_head(path))):
            raise DataError(f"{shown} {reason}.") from error
        raise DataError(f"{shown} can't be read as a tar file ({error}).") from error
    if whole and not _has_end_mark(path, end):
        problems.append(f"{shown} has no end mark of a tar file: it is cut off, and files may be missing.")
    elif whole and _has_trailing_data(path, end):
        problems.append(
            f"{shown} continues after its end mark, where nothing is read: it may be several tar files in one."
        )


def _explain_unread_member(member: tarfile.TarInfo, name: str, seen: set[str]) -> str | None:
    """Return why a member of a tar file is not read, or None; `seen` has the names of the members before it."""
    if reason := _explain_unsafe_name(name):
        return reason
    if not member.isreg() or member.issparse():
        return "is a link or a special file, which are not read in archives"
    return "occurs twice" if name in seen else "has a size below 0" if member.size < 0 else None


class PartReader:
    """Reader of parts of files, which keeps the file that it read last open."""

    def __init__(self) -> None:
        self.path: Path | None = None
        self.file: BinaryIO | None = None
        self.lock = threading.Lock()  # threads share the position in the file

    def __call__(self, path: Path, offset: int, size: int) -> bytes:
        """Read `size` bytes at `offset`; raise DataError if the file can't be read."""
        try:
            with self.lock:
                if self.file is None or path != self.path:
                    if self.file is not None:
                        self.file.close()
                    self.file = None  # if the next line fails, no closed file is left
                    self.path, self.file = path, path.open("rb")
                self.file.seek(offset)
                return self.file.read(size)
        except OSError as error:
            raise DataError(f"{path} can't be read: {explain_read_error(error)}.") from error


def _has_end_mark(path: Path, offset: int) -> bool:
    """Return whether the end mark of a tar file, a block of zeros, is at this offset or directly before it."""
    with path.open("rb") as handle:
        for start in (offset - tarfile.BLOCKSIZE, offset):
            handle.seek(max(start, 0))
            block = handle.read(tarfile.BLOCKSIZE)
            if len(block) == tarfile.BLOCKSIZE and not any(block):
                return True
    return False


def _has_trailing_data(path: Path, offset: int) -> bool:
    """Return whether anything except zeros follows this offset."""
    with path.open("rb") as handle:
        handle.seek(offset)
        while block := handle.read(2**20):
            if block.count(0) != len(block):
                return True
    return False


def _unpack(path: Path, decompress: Callable[..., Any]) -> Path:
    """Decompress a tar file into the cache, unless it is there, and return the plain one."""
    packed = path.stat()
    plain = (
        make_cache_folder("archives") / f"{compute_key(str(path.resolve()), packed.st_size, packed.st_mtime_ns)}.tar"
    )
    if plain.exists():
        return plain
    written = 0
    try:
        with decompress(path, "rb") as source, replacing(plain) as temporary, temporary.open("wb") as out:
            while block := source.read(2**22):
                written += len(block)
                _check_limits(path, 0, written, packed.st_size)
                out.write(block)
    except (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile) as error:
        raise DataError(f"{path} is cut off or damaged ({error}).") from error
    except OSError as error:
        if shutil.disk_usage(plain.parent).free > 2**22 and not isinstance(error, PermissionError):
            raise DataError(f"{path} is cut off or damaged ({error}).") from error  # bz2 raises OSError for damage
        raise build_cache_error(plain.parent, error) from error
    return plain


def _check_limits(path: Path, count: int, size: int, packed: int) -> None:
    """Check the number of files and the unpacked size, in bytes, of an archive of `packed` bytes."""
    if count > MOST_FILES:
        raise DataError(f"{path} holds {count:,} files; the limit is {MOST_FILES:,}.")
    if size > SMALL_ARCHIVE and size > packed * LARGEST_RATIO:
        raise DataError(
            f"{path} unpacks from {packed / 2**20:,.1f} MiB to {size / 2**30:,.1f} GiB or more. Images don't compress "
            "that well, so it is refused as a decompression bomb."
        )


def _explain_bad_size(size: int) -> str | None:
    return (
        f"is larger than {LARGEST_FILE:,} bytes" if size > LARGEST_FILE else "has a size below 0" if size < 0 else None
    )


def _simplify_name(name: str) -> str:
    """Leave out the parts of a path that mean nothing: ``a/b`` for ``./a//./b``."""
    if name.startswith("./") or "//" in name or "/./" in name:
        root = "/" if name.startswith("/") else ""
        return root + "/".join(part for part in name.split("/") if part not in ("", "."))
    return name


def _explain_unsafe_name(name: str) -> str | None:
    """Return what is wrong with the name of a file in an archive, or None."""
    if is_undecodable(name):
        return UNDECODABLE_REASON
    if not name:
        return "has no name"
    parts = name.replace("\\", "/").split("/")
    if not parts[0] or ".." in parts or parts[0].endswith(":"):
        return "leads out of the archive"
    return None

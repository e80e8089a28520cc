"""Remote files (s3, gs, https and others that fsspec reads), fetched whole into the cache when they are needed."""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

from filelock import FileLock

from stackflower.errors import DataError, MissingDependency, summarise_error
from stackflower.utils.atomic import replacing
from stackflower.utils.cache import build_cache_error, compute_key, make_cache_folder

LIMIT_VARIABLE = "STACKFLOWER_CACHE_GIB"  # environment variable for the size of the cache
DEFAULT_LIMIT_GIB = 20.0  # of fetched files
BLOCK_SIZE = 2**22  # bytes


def is_remote(location: str) -> bool:
    """Return whether a location is a URL."""
    return "://" in location


def fetch_file(location: str) -> Path:
    """Return the path of a local file, or of the cached copy of a remote one.

    A later fetch may delete the copy from the cache; use `local_copy` to keep it while it is read.

    Raises:
        DataError: the file can't be fetched.
    """
    with local_copy(location) as path:
        return path


@contextmanager
def local_copy(location: str) -> Iterator[Path]:
    """Provide a file as a local path for the duration of the block.

    When the cache is full, the copies that were unused for longest are deleted.

    Yields:
        The path of a local file, or of the cached copy of a remote one.

    Raises:
        DataError: the file can't be fetched.
    """
    if not is_remote(location):
        yield Path(location).expanduser()
        return
    copy = _locate_copy(location)
    while True:
        with FileLock(copy.parent / ".lock"):
            if copy.exists():
                os.utime(copy)
                try:
                    yield copy
                finally:
                    _make_room(copy.parent, copy)
                return
        with FileLock(copy.parent / f".{copy.name}.lock"):
            if not copy.exists():
                _fetch(location, copy)


@cache
def _locate_copy(location: str) -> Path:
    """Return the path of a file's copy, named by the file's version, which is queried once per process."""
    system, path = _open_file_system(location)
    try:
        info = system.info(path)
    except Exception as error:  # every file system raises its own exceptions
        raise _build_access_error(location, error) from error
    version = [
        str(info.get(key)) for key in ("size", "mtime", "LastModified", "last_modified", "updated", "ETag", "etag")
    ]
    return make_cache_folder("fetched") / f"{compute_key(location, version)}-{location.rpartition('/')[2]}"


def list_matches(location: str) -> list[str]:
    """List the locations that a pattern matches, in alphabetical order.

    Raises:
        DataError: the file system can't be reached.
    """
    system, path = _open_file_system(location)
    protocol = location.partition("://")[0]
    try:
        paths = system.glob(path) if any(c in path for c in "*?[") else [path] if system.exists(path) else []
    except Exception as error:  # every file system raises its own exceptions
        raise _build_access_error(location, error) from error
    return sorted(
        match if is_remote(match) else f"{protocol}://{match.lstrip('/') if protocol != 'file' else match}"
        for match in paths
    )


def find_matches(folder: str, names: Sequence[str]) -> dict[str, list[str]]:
    """Find the locations in a folder at a URL that each name or pattern matches.

    If the folder can be listed, one request is enough for all names.
    """
    if len(names) > 1:
        with suppress(Exception):  # every file system raises its own exceptions
            system, path = _open_file_system(f"{folder}/")
            files = {str(file).rstrip("/").rpartition("/")[2] for file in system.ls(path, detail=False)}
            matching = {name: [name] if name in files else sorted(fnmatch.filter(files, name)) for name in names}
            return {name: [f"{folder}/{file}" for file in matches] for name, matches in matching.items()}
    return {name: list_matches(f"{folder}/{name}") for name in names}


def _open_file_system(location: str) -> tuple[Any, str]:
    import fsspec

    try:
        system, path = fsspec.core.url_to_fs(location)
        return system, str(path)
    except ImportError as error:
        scheme = location.partition("://")[0]
        library = {
            "s3": "s3fs",
            "gs": "gcsfs",
            "gcs": "gcsfs",
            "http": "aiohttp",
            "https": "aiohttp",
            "hf": "huggingface_hub",
        }
        raise MissingDependency(library.get(scheme, str(error)), "remote", f"Reading {scheme}://") from error
    except ValueError as error:
        raise DataError(f"{location} can't be read: {error}.") from error


def _fetch(location: str, copy: Path) -> None:
    system, path = _open_file_system(location)
    try:
        with system.open(path, "rb") as source, replacing(copy) as temporary, temporary.open("wb") as out:
            while block := source.read(BLOCK_SIZE):
                out.write(block)
    except OSError as error:
        if error.errno is not None and not isinstance(error, FileNotFoundError):
            raise build_cache_error(copy.parent, error) from error
        raise _build_access_error(location, error) from error
    except Exception as error:
        raise _build_access_error(location, error) from error


def _make_room(folder: Path, kept: Path) -> None:
    """Delete the copies that were unused for longest, except `kept`, until the rest is within the limit."""
    try:
        limit = float(os.environ.get(LIMIT_VARIABLE) or DEFAULT_LIMIT_GIB) * 2**30
    except ValueError:
        raise DataError(
            f"{LIMIT_VARIABLE}={os.environ[LIMIT_VARIABLE]!r} is not a number of GiB, such as 20."
        ) from None
    copies = {}
    for path in folder.iterdir():
        if not path.name.startswith("."):
            with suppress(OSError):
                copies[path] = path.stat()
    total = sum(status.st_size for status in copies.values())
    for path in sorted(copies, key=lambda path: copies[path].st_mtime):
        if total <= limit:
            break
        if path != kept:
            total -= copies[path].st_size
            path.unlink(missing_ok=True)


def _build_access_error(location: str, error: Exception) -> DataError:
    reason = summarise_error(error)
    return DataError(f"{location} can't be read: {reason}. Check the address, the network and your credentials.")

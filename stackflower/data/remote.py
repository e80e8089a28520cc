"""Files elsewhere, fetched whole into the cache when they are needed (fsspec: s3, gs, https, …)."""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

from filelock import FileLock

from stackflower.errors import DataError, MissingDependency
from stackflower.utils.atomic import replacing
from stackflower.utils.cache import cache_folder, key_of, not_writable

LIMIT = "STACKFLOWER_CACHE_GIB"  # environment variable
GIB = 20.0  # of fetched files that are kept
BLOCK = 2**22


def is_remote(location: str) -> bool:
    """Whether a location is a URL."""
    return "://" in location


def local(location: str) -> Path:
    """The file at a location: itself, or a copy in the cache. DataError where it can't be had. A copy may go when others come: `held` keeps it."""
    with held(location) as path:
        return path


@contextmanager
def held(location: str) -> Iterator[Path]:
    """The file at a location, which stays while the block runs; of copies, those that were not used for longest go."""
    if not is_remote(location):
        yield Path(location).expanduser()
        return
    copy = _copy(location)
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
def _copy(location: str) -> Path:
    """Where the copy of a file lies, by what tells this version of it; asked once in a process."""
    system, path = _opened(location)
    try:
        known = system.info(path)
    except Exception as error:  # every kind of file system has its own
        raise _unreachable(location, error) from error
    version = [
        str(known.get(key)) for key in ("size", "mtime", "LastModified", "last_modified", "updated", "ETag", "etag")
    ]
    return cache_folder("fetched") / f"{key_of(location, version)}-{location.rpartition('/')[2]}"


def listing(location: str) -> list[str]:
    """The locations that a pattern matches, in alphabetical order."""
    system, path = _opened(location)
    protocol = location.partition("://")[0]
    try:
        found = system.glob(path) if any(c in path for c in "*?[") else [path] if system.exists(path) else []
    except Exception as error:  # every kind of file system has its own
        raise _unreachable(location, error) from error
    return sorted(
        one if is_remote(one) else f"{protocol}://{one.lstrip('/') if protocol != 'file' else one}" for one in found
    )


def present(folder: str, names: Sequence[str]) -> dict[str, list[str]]:
    """Of a folder at a URL, the locations that each name or pattern matches. One request lists the folder, where it can be listed."""
    if len(names) > 1:
        with suppress(Exception):  # every kind of file system has its own
            system, path = _opened(f"{folder}/")
            there = {str(one).rstrip("/").rpartition("/")[2] for one in system.ls(path, detail=False)}
            matching = {name: [name] if name in there else sorted(fnmatch.filter(there, name)) for name in names}
            return {name: [f"{folder}/{one}" for one in found] for name, found in matching.items()}
    return {name: listing(f"{folder}/{name}") for name in names}


def _opened(location: str) -> tuple[Any, str]:
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
    system, path = _opened(location)
    try:
        with system.open(path, "rb") as source, replacing(copy) as temporary, temporary.open("wb") as out:
            while part := source.read(BLOCK):
                out.write(part)
    except OSError as error:
        if error.errno is not None and not isinstance(error, FileNotFoundError):
            raise not_writable(copy.parent, error) from error
        raise _unreachable(location, error) from error
    except Exception as error:
        raise _unreachable(location, error) from error


def _make_room(folder: Path, but: Path) -> None:
    """Delete the copies that were not used for longest, until the rest is small enough."""
    try:
        most = float(os.environ.get(LIMIT) or GIB) * 2**30
    except ValueError:
        raise DataError(f"{LIMIT}={os.environ[LIMIT]!r}: it should be a number of GiB, such as 20.") from None
    known = {}
    for path in folder.iterdir():
        if not path.name.startswith("."):
            with suppress(OSError):
                known[path] = path.stat()
    total = sum(found.st_size for found in known.values())
    for path in sorted(known, key=lambda path: known[path].st_mtime):
        if total <= most:
            break
        if path != but:
            total -= known[path].st_size
            path.unlink(missing_ok=True)


def _unreachable(location: str, error: Exception) -> DataError:
    reason = (str(error) or type(error).__name__).splitlines()[0]
    return DataError(f"{location} can't be read: {reason}. Check the address, the network and your credentials.")

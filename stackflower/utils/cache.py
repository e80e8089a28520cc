"""Cache of files that can be made again at any time, named by a key of what they were made from."""

from __future__ import annotations

import hashlib
import os
from contextlib import AbstractContextManager
from pathlib import Path

from stackflower.errors import DataError
from stackflower.utils.atomic import describe_write_error, reporting_write_errors

VERSION = 2  # part of every key
ADVICE = "Free some disk space, or set the environment variable STACKFLOWER_CACHE to another folder."


def make_cache_folder(kind: str) -> Path:
    """Create the cache folder for one kind of file, unless it exists, and return it.

    Args:
        kind: name of a folder in the cache, such as "prepared" or "embeddings". The cache is the folder that the
            environment variable ``STACKFLOWER_CACHE`` names, by default ``~/.cache/stackflower``.

    Raises:
        DataError: the folder can't be created.
    """
    folder = Path(os.environ.get("STACKFLOWER_CACHE") or Path.home() / ".cache" / "stackflower").expanduser() / kind
    with reporting_cache_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    return folder


def reporting_cache_errors(folder: Path) -> AbstractContextManager[None]:
    """Raise a DataError for a failure to write to the cache in the block (see `reporting_write_errors`)."""
    return reporting_write_errors(f"The cache {folder}", DataError, ADVICE)


def build_cache_error(folder: Path, error: Exception) -> DataError:
    """Build the error for a cache that can't be written."""
    return DataError(describe_write_error(f"The cache {folder}", error, ADVICE))


def compute_key(*parts: object) -> str:
    """Hash a combination of values, whose `repr` must be stable, to a key of 24 hexadecimal digits."""
    return hashlib.blake2b(repr((VERSION, *parts)).encode(), digest_size=12).hexdigest()

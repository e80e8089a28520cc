"""Cache of files that can be made again at any time, named by a key of what they were made from."""

from __future__ import annotations

import hashlib
import os
from contextlib import AbstractContextManager
from pathlib import Path

from stackflower.errors import DataError
from stackflower.utils.atomic import describe_write_error, reporting_write_errors

VERSION = 2  # part of every key
ADVICE = "Free some disk space, or set the environment variable STACKFLOWER_CACHE to a folder elsewhere."


def cache_folder(kind: str) -> Path:
    """Return the folder of a kind of thing ("prepared", "embeddings", "classifiers") below STACKFLOWER_CACHE, by
    default ~/.cache/stackflower; it is made if it does not exist.

    Raises:
        DataError: the folder can't be made.
    """
    folder = Path(os.environ.get("STACKFLOWER_CACHE") or Path.home() / ".cache" / "stackflower").expanduser() / kind
    with reporting_cache_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    return folder


def reporting_cache_errors(folder: Path) -> AbstractContextManager[None]:
    """Report a failure to write to the cache in the block, as of `reporting_write_errors`."""
    return reporting_write_errors(f"The cache {folder}", DataError, ADVICE)


def not_writable(folder: Path, error: Exception) -> DataError:
    """Build the error for a cache that can't be written."""
    return DataError(describe_write_error(f"The cache {folder}", error, ADVICE))


def key_of(*parts: object) -> str:
    """Return a short name for a combination of settings."""
    return hashlib.blake2b(repr((VERSION, *parts)).encode(), digest_size=12).hexdigest()

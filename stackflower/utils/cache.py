"""The cache: what can be made again at any time, under names that say what it was made from."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from stackflower.errors import DataError

VERSION = 2


def cache_folder(kind: str) -> Path:
    """The folder of a kind of thing ("prepared", "embeddings", "classifiers") below STACKFLOWER_CACHE, by default
    ~/.cache/stackflower; made if it is not there. DataError where it can't be."""
    folder = Path(os.environ.get("STACKFLOWER_CACHE") or Path.home() / ".cache" / "stackflower").expanduser() / kind
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise not_writable(folder, error) from error
    return folder


def not_writable(folder: Path, error: Exception) -> DataError:
    """The sentence for a cache that can't be written."""
    return DataError(
        f"The cache {folder} can't be written: {error}. Free some space, or set the environment variable STACKFLOWER_CACHE to "
        "a folder elsewhere."
    )


def key_of(*parts: object) -> str:
    """A short name for a combination of settings."""
    return hashlib.blake2b(repr((VERSION, *parts)).encode(), digest_size=12).hexdigest()

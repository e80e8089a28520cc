"""Cache of reproducible files, named by a key of their inputs."""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import tempfile
from contextlib import AbstractContextManager
from functools import lru_cache
from pathlib import Path

from stackflower.errors import DataError
from stackflower.utils.atomic import describe_write_error, reporting_write_errors

logger = logging.getLogger(__name__)

VERSION = 2  # part of every key
ADVICE = "Free some disk space, or set the environment variable STACKFLOWER_CACHE to another folder."


def make_cache_folder(kind: str) -> Path:
    """Return the cache folder for one kind of file, creating it if necessary.

    Args:
        kind: name of a folder in the cache, such as "prepared" or "embeddings". The environment variable
            ``STACKFLOWER_CACHE`` sets the cache. Default: ``~/.cache/stackflower``, or a folder in the temporary folder
            if this is not writable.

    Raises:
        DataError: the folder can't be created.
    """
    chosen = os.environ.get("STACKFLOWER_CACHE")
    folder = (Path(chosen).expanduser() if chosen else _find_default_cache()) / kind
    with reporting_cache_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    return folder


@lru_cache(maxsize=1)
def _find_default_cache() -> Path:
    """Return the cache in the home folder, or one in the temporary folder if the home folder is not writable."""
    try:
        folder = Path.home() / ".cache" / "stackflower"
        folder.mkdir(parents=True, exist_ok=True)
        if os.access(folder, os.W_OK | os.X_OK):
            return folder
        reason = f"{folder} is not writable"
    except RuntimeError:
        reason = "the user has no home folder"
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return folder
        reason = f"{folder} can't be created"
    user = os.getuid() if hasattr(os, "getuid") else "cache"
    temporary = Path(tempfile.gettempdir()) / f"stackflower-{user}"
    with reporting_cache_errors(temporary):
        temporary.mkdir(mode=0o700, exist_ok=True)
        if hasattr(os, "getuid") and temporary.stat().st_uid != os.getuid():
            raise PermissionError(errno.EPERM, "it belongs to another user")
    logger.warning(
        "The cache is in %s, because %s. Set the environment variable STACKFLOWER_CACHE to keep it elsewhere.",
        temporary,
        reason,
    )
    return temporary


def reporting_cache_errors(folder: Path) -> AbstractContextManager[None]:
    """Convert errors of writing to the cache in the block to a DataError (see `reporting_write_errors`)."""
    return reporting_write_errors(f"The cache {folder}", DataError, ADVICE)


def build_cache_error(folder: Path, error: Exception) -> DataError:
    """Build the error for a cache that is not writable."""
    return DataError(describe_write_error(f"The cache {folder}", error, ADVICE))


def compute_key(*parts: object) -> str:
    """Hash values, whose `repr` must be stable, to a key of 24 hexadecimal digits."""
    return hashlib.blake2b(repr((VERSION, *parts)).encode(), digest_size=12).hexdigest()

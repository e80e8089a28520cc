"""Atomic writing: files are written under a temporary name and renamed, so nothing ever reads half a file."""

from __future__ import annotations

import os
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from safetensors import SafetensorError

from stackflower.errors import StackflowerError

RESUME_ADVICE = "Free some disk space and rerun; it resumes where it stopped."
OUT_ADVICE = "Choose another `out`."


@contextmanager
def reporting_write_errors(
    path: object, error_class: type[StackflowerError], advice: str = OUT_ADVICE
) -> Iterator[None]:
    """Turn a failure to write in the block into an error that names `path`.

    Args:
        path: what the block writes, for the message.
        error_class: class of the error to raise.
        advice: what the user can do, as a sentence.

    Raises:
        StackflowerError: the block raised an OSError or SafetensorError; the error is an `error_class`.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise error_class(describe_write_error(path, error, advice)) from error


def describe_write_error(path: object, error: Exception, advice: str) -> str:
    """Say that `path` can't be written, why, and what to do."""
    reason = getattr(error, "strerror", None) or str(error).rstrip(".")
    return f"{path} can't be written: {reason}. {advice}"


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Replace a file by the one that the block writes.

    The folder of `path` is created if it does not exist.

    Yields:
        A temporary path with the same folder and suffix. The file there is renamed to `path` when the block ends, and
        removed if the block raises an exception.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}-{uuid.uuid4().hex[:8]}{path.suffix}")
    try:
        yield temporary
        if temporary.is_file():
            temporary.chmod(0o666 & ~_get_umask())  # some libraries create files that only their owner may read
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@cache
def _get_umask() -> int:
    """Return the file mode creation mask, which can only be read by setting it."""
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def list_leftovers(path: Path) -> list[Path]:
    """List the temporary files that `replacing` left behind when its process was killed."""
    name = re.compile(rf"\.{re.escape(path.stem)}-[0-9a-f]{{8}}{re.escape(path.suffix)}")
    return [file for file in path.parent.iterdir() if name.fullmatch(file.name)]


def try_writing(path: Path) -> None:
    """Check that a file can be written, before hours of work rather than after.

    Raises:
        OSError: it can't.
    """
    if path.is_dir():
        raise IsADirectoryError(f"it is a folder; name a file in it, as in {path / 'FILE'}")
    path.parent.mkdir(parents=True, exist_ok=True)
    trial = path.with_name(f".{path.name}.try")
    trial.touch()
    trial.unlink(missing_ok=True)  # another process may have removed it


def write_text(path: Path, text: str) -> None:
    """Write a text file in UTF-8, with escapes for what can't be encoded, such as file names that are not UTF-8."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")

"""Files are written beside their place and renamed into it, so that nothing ever reads half a file."""

from __future__ import annotations

import os
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from stackflower.errors import StackflowerError

RESUMES = "Free some disk space and rerun; it resumes where it stopped."
OTHER_OUT = "Choose another `out`."


@contextmanager
def reporting_write_errors(
    path: object, error_class: type[StackflowerError], advice: str = OTHER_OUT
) -> Iterator[None]:
    """Report a failure to write in the block as one sentence about `path`.

    Args:
        path: what can't be written then.
        error_class: class of the error that is raised.
        advice: what to do, as a sentence.

    Raises:
        StackflowerError: of `error_class`, for an OSError or SafetensorError in the block.
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
    """Yield a path in the same folder, which is made, with the same suffix.

    It is renamed to `path` when the block ends, and removed when the block fails.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}-{uuid.uuid4().hex[:8]}{path.suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def left_behind(path: Path) -> list[Path]:
    """List what `replacing` left of a file when its process was killed."""
    name = re.compile(rf"\.{re.escape(path.stem)}-[0-9a-f]{{8}}{re.escape(path.suffix)}")
    return [each for each in path.parent.iterdir() if name.fullmatch(each.name)]


def try_writing(path: Path) -> None:
    """Raise OSError if a file can't be written: before hours of work, not after."""
    if path.is_dir():
        raise IsADirectoryError(f"it is a folder; name a file in it, as in {path / 'FILE'}")
    path.parent.mkdir(parents=True, exist_ok=True)
    trial = path.with_name(f".{path.name}.try")
    trial.touch()
    trial.unlink(missing_ok=True)  # other processes try too


def write_text(path: Path, text: str) -> None:
    """Write a text file in UTF-8; names of files that are not UTF-8 appear in it with escapes."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")

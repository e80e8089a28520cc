"""Files are written beside their place and renamed into it, so that nothing ever reads half a file."""

from __future__ import annotations

import os
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path in the same folder (which is made) and with the same suffix, renamed to `path` when the block ends, removed when it fails."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}-{uuid.uuid4().hex[:8]}{path.suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def left_behind(path: Path) -> list[Path]:
    """What `replacing` left of a file when its process was killed."""
    name = re.compile(rf"\.{re.escape(path.stem)}-[0-9a-f]{{8}}{re.escape(path.suffix)}")
    return [each for each in path.parent.iterdir() if name.fullmatch(each.name)]


def try_writing(path: Path) -> None:
    """OSError where a file can't be written, before hours of work and not after."""
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

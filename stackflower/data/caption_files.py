"""Captions given on a command line or in a file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from stackflower.errors import ConfigError, DataError
from stackflower.formats.lines import lines_of


def read_captions(path: Path, every: bool = False) -> list[str]:
    """Captions of a text file, one a line, or of a metadata.jsonl: the first of each row, or `every` one."""
    if not path.is_file():
        raise DataError(
            f"{path} does not exist; `file` takes a text file with one caption a line, or a metadata.jsonl."
        )
    try:
        lines = lines_of(path.read_text(encoding="utf-8-sig"))
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not a text file in UTF-8 ({error}); save it as UTF-8.") from error
    if path.suffix == ".jsonl":
        try:
            texts = [json.loads(line)["text"] for line in lines]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise DataError(
                f'{path}: every line must be an object with "text" ({type(error).__name__}: {error}).'
            ) from error
        own = [text if isinstance(text, list) and text else [text] for text in texts]
        lines = [text for each in own for text in (each if every else each[:1])]
        if not all(isinstance(text, str) for text in lines):
            raise DataError(f'{path}: "text" must be a string or a list of strings in every line.')
    if not lines:
        raise DataError(f"{path} has no captions.")
    return lines


def captions_of(given: Sequence[str], file: str | None, every: bool = False) -> list[str]:
    """The captions given on a command line or in a file (see `read_captions`)."""
    if file is not None and given:
        raise ConfigError("Give captions on the command line or in a file (`file=FILE`), not both.")
    captions = list(given) if file is None else read_captions(Path(file).expanduser(), every)
    if not captions:
        raise ConfigError(
            'There is no caption: give one or more sentences, as in "a red flower", or a file (`file=FILE`).'
        )
    return captions

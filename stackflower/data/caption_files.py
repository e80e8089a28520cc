"""Captions in files: one a line in a text file, or in the rows of a metadata.jsonl."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath

from stackflower.errors import ConfigError, DataError
from stackflower.formats.lines import lines_of, lines_with_numbers


def name_text_file(image: str) -> str:
    """Return the name of the text file beside an image: ``a/1.txt`` for ``a/1.png``."""
    path = PurePosixPath(image)
    return (path.parent / f"{path.stem}.txt").as_posix()


def index_by_ending(names: Iterable[str]) -> dict[str, str]:
    """Map what each file name ends in, without its suffix, to the name: its last part, and its last two and three."""
    index: dict[str, str] = {}
    for name in names:
        parts = PurePosixPath(name).with_suffix("").parts
        index |= {"/".join(parts[-count:]): name for count in (1, 2, 3) if count <= len(parts)}
    return index


def find_by_ending(index: dict[str, str], name: str) -> str | None:
    """Return the file whose name shares the most parts with `name`, which has no suffix; None if none shares the last.

    Args:
        index: names by what they end in, as of `index_by_ending`.
        name: a name in a list such as StackGAN's ``filenames.pickle``.
    """
    parts = PurePosixPath(name).parts
    endings = ["/".join(parts[-count:]) for count in (3, 2, 1) if count <= len(parts)]
    return next((index[ending] for ending in endings if ending in index), None)


def read_text(path: Path) -> str:
    """Read a text file in UTF-8.

    Raises:
        DataError: the file can't be read, or is not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DataError(f"{path} can't be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not a text file in UTF-8 ({error}); save it as UTF-8.") from error


def read_captions(path: Path, every: bool = False) -> list[str]:
    """Read the captions of a text file, one a line, or of a metadata.jsonl.

    Args:
        path: the file; one that ends in .jsonl has an object with "text" in each line.
        every: take all captions of each row of a metadata.jsonl, not only the first.

    Raises:
        DataError: the file can't be read, or has no captions.
    """
    text = read_text(path)
    if path.suffix == ".jsonl":
        captions = [caption for row in _parse_rows(text, path) for caption in (row if every else row[:1])]
    else:
        captions = lines_of(text)
    if not captions:
        raise DataError(f"{path} has no captions.")
    return captions


def _parse_rows(text: str, path: Path) -> Iterator[list[str]]:
    """Yield the captions of each row of a metadata.jsonl."""
    for number, line in lines_with_numbers(text):
        try:
            value = json.loads(line)["text"]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            reason = f"{type(error).__name__}: {error}"
            raise DataError(f'{path}: line {number} is not an object with "text" ({reason}).') from error
        captions = value if isinstance(value, list) else [value]
        if not captions or not all(isinstance(caption, str) for caption in captions):
            raise DataError(f'{path}: line {number} has a "text" that is neither a string nor a list of strings.')
        yield captions


def captions_of(given: Sequence[str], file: str | None, every: bool = False) -> list[str]:
    """Return the captions given on a command line, or those in a file (see `read_captions`)."""
    if file is not None and given:
        raise ConfigError("Give captions on the command line or in a file (`file=FILE`), not both.")
    if file is None:
        if not given:
            raise ConfigError(
                'There is no caption: give one or more sentences, as in "a red flower", or a file (`file=FILE`).'
            )
        return list(given)
    path = Path(file).expanduser()
    if not path.is_file():
        expected = "`file` takes a text file with one caption a line, or a metadata.jsonl"
        raise DataError(f"{path} does not exist; {expected}.")
    return read_captions(path, every)

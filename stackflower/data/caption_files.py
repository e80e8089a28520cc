"""Captions in files: one per line of a text file, or in the rows of a metadata.jsonl."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath

from stackflower.errors import ConfigError, DataError
from stackflower.formats.lines import number_lines, split_lines


def name_text_file(image: str) -> str:
    """Return the name of the text file beside an image: ``a/1.txt`` for ``a/1.png``."""
    path = PurePosixPath(image)
    return (path.parent / f"{path.stem}.txt").as_posix()


def index_by_ending(names: Iterable[str]) -> dict[str, str]:
    """Index file names by their endings: the last one, two and three parts of each path, without the suffix."""
    index: dict[str, str] = {}
    for name in names:
        parts = PurePosixPath(name).with_suffix("").parts
        index |= {"/".join(parts[-count:]): name for count in (1, 2, 3) if count <= len(parts)}
    return index


def find_by_ending(index: dict[str, str], name: str) -> str | None:
    """Return the file whose path ends like `name`, with as many equal parts as possible; None for no such file.

    Args:
        index: file names by their endings (see `index_by_ending`).
        name: name without a suffix, as in StackGAN's ``filenames.pickle``.
    """
    parts = PurePosixPath(name).parts
    endings = ["/".join(parts[-count:]) for count in (3, 2, 1) if count <= len(parts)]
    return next((index[ending] for ending in endings if ending in index), None)


def read_text(path: Path) -> str:
    """Read a text file in UTF-8.

    Raises:
        DataError: the file can't be read or is not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DataError(f"{path} can't be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not a text file in UTF-8 ({error}); save it as UTF-8.") from error


def read_captions(path: Path, every: bool = False) -> list[str]:
    """Read captions from a text file, one per line, or from a metadata.jsonl.

    Args:
        path: text file, or a file that ends in ``.jsonl``, with an object that has the key "text" on each line.
        every: return all captions of each row of a metadata.jsonl instead of the first.

    Raises:
        DataError: the file can't be read or has no captions.
    """
    text = read_text(path)
    if path.suffix == ".jsonl":
        captions = [caption for row in _parse_rows(text, path) for caption in (row if every else row[:1])]
    else:
        captions = split_lines(text)
    if not captions:
        raise DataError(f"{path} has no captions.")
    return captions


def _parse_rows(text: str, path: Path) -> Iterator[list[str]]:
    """Yield the captions of each row of a metadata.jsonl."""
    for number, line in number_lines(text):
        try:
            value = json.loads(line)["text"]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            reason = f"{type(error).__name__}: {error}"
            raise DataError(f'{path}: line {number} is not an object with "text" ({reason}).') from error
        captions = value if isinstance(value, list) else [value]
        if not captions or not all(isinstance(caption, str) for caption in captions):
            raise DataError(f'{path}: line {number} has a "text" that is neither a string nor a list of strings.')
        yield captions


def collect_captions(given: Sequence[str], file: str | None, every: bool = False) -> list[str]:
    """Return the captions given on the command line, or those in a file (see `read_captions`).

    Raises:
        ConfigError: captions are given in both ways, or in none.
        DataError: the file does not exist or can't be read.
    """
    if file is not None and given:
        raise ConfigError("Give captions on the command line or in a file (`file=FILE`), not both.")
    if file is None:
        if not given:
            raise ConfigError(
                'No caption given: give one or more sentences, as in "a red flower", or a file (`file=FILE`).'
            )
        return list(given)
    path = Path(file).expanduser()
    if not path.is_file():
        expected = "`file` takes a text file with one caption per line, or a metadata.jsonl"
        raise DataError(f"{path} does not exist; {expected}.")
    return read_captions(path, every)

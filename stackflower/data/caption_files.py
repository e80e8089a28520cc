"""Captions in files: one per line of a text file, or in the rows of a table."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath

from stackflower.data.files import Folder, decode_text
from stackflower.data.rows.columns import Columns, is_usual, normalise_row
from stackflower.data.rows.containers import TEXT_SUFFIXES, is_container, open_table
from stackflower.data.rows.detection import build_column_error, find_text_columns
from stackflower.errors import ConfigError, DataError
from stackflower.formats.lines import split_lines


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


def read_captions(path: Path, every: bool = False, column: str | None = None) -> list[str]:
    """Read captions from a text file, one per line, or from a table.

    Args:
        path: text file, or a table of any kind that data may have, such as a metadata.jsonl.
        every: return all captions of each row of a table instead of the first.
        column: column of the captions. Default: a column with a usual name.

    Raises:
        DataError: the file can't be read or has no captions, or a row has none.
    """
    if is_container(path.name) and (path.suffix.lower() != ".txt" or _is_table(path)):
        captions = [caption for row in _read_rows(path, column) for caption in (row if every else row[:1])]
    else:
        try:
            captions = split_lines(decode_text(path.read_bytes(), path))
        except OSError as error:
            raise DataError(f"{path} can't be read: {error.strerror}.") from error
    if not captions:
        raise DataError(f"{path} has no captions.")
    return captions


def _is_table(path: Path) -> bool:
    """Return whether the first line of a text file names the columns of a table, as in Flickr8k's captions.txt."""
    try:
        with path.open(encoding="utf-8-sig") as file:
            names = re.split(r"[,\t;|]", file.readline())
    except (OSError, UnicodeDecodeError):
        return False
    return all(any(is_usual(content, name) for name in names) for content in ("image", "text"))


def _read_rows(path: Path, column: str | None) -> Iterator[list[str]]:
    """Yield the captions of each row of a table."""
    files = Folder(path.parent)
    table = open_table(files, path.name)
    rows = list(table.rows)
    names = tuple(dict.fromkeys(name for row in rows for name in row.values))
    columns = find_text_columns([row.values for row in rows if row.problem is None], column, path)
    is_text = path.suffix.lower() in TEXT_SUFFIXES
    if is_text and column is None and not any(is_usual("text", name) for name in names) and len(names) <= 1:
        # a list without a header
        rows = list(open_table(files, path.name, header=False).rows)
        columns = ("1",)
    if columns is None:
        raise build_column_error("text", names, path)
    for row in rows:
        values, problem = normalise_row(row.values, Columns("", columns))
        captions = values["text"]
        if row.problem is None and problem is None and not any(caption.strip() for caption in captions):
            problem = "has no caption"
        if row.problem or problem:
            raise DataError(f"{table.locate(row)} {row.problem or problem}.")
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
    if file == "-":
        lines = split_lines(decode_text(sys.stdin.buffer.read(), Path("standard input")))
        if not lines:
            raise DataError("Standard input has no captions.")
        return lines
    path = Path(file).expanduser()
    if not path.is_file():
        expected = "`file` takes a text file with one caption per line, a table, or - for standard input"
        raise DataError(f"{path} does not exist; {expected}.")
    return read_captions(path, every)

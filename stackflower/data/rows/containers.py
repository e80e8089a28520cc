"""Containers of rows: JSON, delimited text, Parquet and Arrow files."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from stackflower.data.files import Files, decode_text
from stackflower.data.rows.arrow import ArrowRows, open_arrow
from stackflower.data.rows.delimited import read_delimited
from stackflower.data.rows.names import NameResolver
from stackflower.errors import DataError
from stackflower.formats.lines import number_lines, split_lines

JSON_SUFFIXES = (".jsonl", ".ndjson", ".json")
TEXT_SUFFIXES = (".csv", ".tsv", ".token", ".token.txt", "captions.txt")
ARROW_SUFFIXES = (".parquet", ".arrow", ".feather")
SUFFIXES = (*JSON_SUFFIXES, *TEXT_SUFFIXES, *ARROW_SUFFIXES)
ENCODING_ADVICE = "save it as UTF-8, or name its encoding, as in `data.encoding=cp1252` for tables that Excel saved"
Values = dict[str, Any]  # cells by column


class RawRow(NamedTuple):
    """An unprocessed row of a container.

    Attributes:
        place: number of the line, row or entry, from 1; or a description of the location, for messages.
        values: cells by column.
        problem: what is wrong with the row (the end of a sentence), or None.
    """

    place: int | str
    values: Values
    problem: str | None = None


@dataclass
class RawTable:
    """The rows of a container.

    Attributes:
        name: name of the container, for messages.
        rows: rows of the container.
        unit: word for a row in messages.
        folder: folder to which names of images are relative.
        split: split of all rows, if names of files or folders give it.
        class_names: class names of each column of class numbers.
        arrow_rows: the Arrow or Parquet rows whose cells hold images.
        is_fixed: whether the columns are "image", "text", "label" and "split", so that none have to be detected.
        is_checked: whether the rows are already normalised and checked, except class names.
    """

    name: str
    rows: Iterable[RawRow]
    unit: str = "line"
    folder: str = ""
    split: str | None = None
    class_names: Mapping[str, Sequence[str]] = field(default_factory=dict)
    arrow_rows: ArrowRows | None = None
    is_fixed: bool = False
    is_checked: bool = False

    def locate(self, row: RawRow) -> str:
        """Return the location of a row, for messages."""
        return row.place if isinstance(row.place, str) else f"{self.name}, {self.unit} {row.place}"


def is_container(name: str) -> bool:
    """Return whether a file is a container of rows, by its name."""
    return name.lower().endswith(SUFFIXES)


def open_table(
    files: Files,
    name: str,
    split: str | None = None,
    delimiter: str | None = None,
    encoding: str | None = None,
    header: bool | None = None,
) -> RawTable:
    """Open a container by the suffix of its name.

    Args:
        files: files of the data set.
        name: name of the file.
        split: split of all rows, if it is known.
        delimiter: character between the cells of delimited text. Default: detect it.
        encoding: encoding of text. Default: UTF-8, or UTF-16 with a byte order mark.
        header: whether the first line of delimited text names the columns. Default: true unless it names an image.

    Raises:
        DataError: the file can't be read.
        MissingDependency: pyarrow is needed and not installed.
    """
    suffix, where, folder = PurePosixPath(name).suffix.lower(), files.path / name, name.rpartition("/")[0]
    if suffix in ARROW_SUFFIXES:
        arrow = open_arrow(files.locate(name) or files.read(name), where)
        rows = (RawRow(number, values) for number, values in arrow.read_rows())
        return RawTable(name, rows, "row", folder, split, arrow.class_names, arrow)
    text = decode_text(files.read(name), where, encoding, ENCODING_ADVICE)
    if suffix in JSON_SUFFIXES:
        return RawTable(name, read_json(text, where), "line" if suffix != ".json" else "entry", folder, split)
    resolver = NameResolver(files, folder)
    cells = read_delimited(text, where, delimiter, header, lambda cell: resolver.find(cell).file is not None)
    return RawTable(name, map(RawRow._make, cells), "line", folder, split)


def read_text_row(place: str, values: Values, files: Files, name: str) -> RawRow:
    """Read the lines of a text file as the captions of a row.

    Args:
        place: location of the row, for messages.
        values: other cells of the row, with their usual names.
        files: files that hold the text file.
        name: name of the text file.
    """
    try:
        return RawRow(place, {**values, "text": split_lines(files.text(name))})
    except DataError as error:
        return RawRow(place, values, f"has no readable captions: {str(error).rstrip('.')}")


def parse_object(text: str) -> tuple[Values, str | None]:
    """Parse a JSON object.

    Returns:
        The object, and what is wrong with it (the end of a sentence) or None.
    """
    try:
        value = json.loads(text)
    except RecursionError:
        return {}, "is nested too deeply"
    except ValueError as error:  # malformed JSON, or a number of too many digits
        return {}, f"is not JSON ({getattr(error, 'msg', None) or str(error).split(';')[0]})"
    return (value, None) if isinstance(value, dict) else ({}, "is not a JSON object")


def read_json(text: str, where: Path) -> Iterator[RawRow]:
    """Read rows from JSON: an object per line, an array of objects, or an object of lists or of rows by image.

    Args:
        text: content of the file.
        where: name of the file, for messages.

    Raises:
        DataError: the file is a JSON value without rows.
    """
    is_lines = where.suffix.lower() != ".json"
    if not is_lines or text.lstrip()[:1] == "[":
        try:
            value = json.loads(text)
        except RecursionError:
            raise DataError(f"{where} is nested too deeply.") from None
        except ValueError as error:
            if not is_lines and "\n{" not in text.strip():
                raise DataError(f"{where} is not JSON ({error}).") from error
        else:
            yield from _list_entries(value, where)
            return
    for number, line in number_lines(text):
        yield RawRow(number, *parse_object(line))


def _list_entries(value: Any, where: Path) -> Iterator[RawRow]:
    """Yield the rows in a JSON value."""
    lists = [item for item in value.values() if _is_list_of_objects(item)] if isinstance(value, dict) else [value]
    if len(lists) == 1 and isinstance(lists[0], list):
        rows: Iterable[Any] = ({"text": row} if isinstance(row, str) else row for row in lists[0])
    elif isinstance(value, dict) and value and all(isinstance(item, dict) for item in value.values()):
        first = next(iter(value.values()))
        if len(value) > 1 and all(item.keys() == first.keys() for item in value.values()) and _is_numbered(first):
            rows = ({name: column[key] for name, column in value.items()} for key in first)  # columns, as in pandas
        else:
            rows = ({"image": name, **item} for name, item in value.items())
    elif isinstance(value, dict) and value and all(isinstance(item, (str, list)) for item in value.values()):
        rows = ({"image": name, "text": item} for name, item in value.items())
    else:
        raise DataError(
            f'{where} contains no list of rows, such as [{{"file_name": "0001.jpg", "text": "a red flower"}}, …].'
        )
    for number, row in enumerate(rows, 1):
        yield RawRow(number, row) if isinstance(row, dict) else RawRow(number, {}, "is not a JSON object")


def _is_list_of_objects(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, dict) for item in value)


def _is_numbered(keys: Iterable[str]) -> bool:
    return all(key.isdecimal() for key in keys)

"""Containers of rows: JSON, delimited text, Parquet and Arrow files."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from stackflower.data.files import Files, decode_text
from stackflower.data.image_formats import EXTENSIONS
from stackflower.data.rows.arrow import ArrowRows, open_arrow
from stackflower.data.rows.columns import USUAL_NAMES, is_usual
from stackflower.data.rows.names import NameResolver
from stackflower.errors import DataError
from stackflower.formats.lines import number_lines, split_lines

JSON_SUFFIXES = (".jsonl", ".ndjson", ".json")
TEXT_SUFFIXES = (".csv", ".tsv", ".token", ".token.txt", "captions.txt")
ARROW_SUFFIXES = (".parquet", ".arrow", ".feather")
SUFFIXES = (*JSON_SUFFIXES, *TEXT_SUFFIXES, *ARROW_SUFFIXES)
DELIMITERS = ",\t;|"
EXCEL_NOTE = re.compile(r"\"?sep=(.)\"?", re.IGNORECASE)  # line before the header, which Excel does not show
MAX_CELL = 10_000_000  # characters
MAX_LINES = 1_000  # per row, if cells contain line breaks
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
    return RawTable(name, cells, "line", folder, split)


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


def read_delimited(
    text: str,
    where: Path,
    delimiter: str | None = None,
    header: bool | None = None,
    names_file: Callable[[str], bool] = lambda cell: False,
) -> Iterator[RawRow]:
    """Read rows of delimited text. A row that can't be read does not affect the rows after it.

    Args:
        text: content of the file.
        where: name of the file, for messages.
        delimiter: character between cells. Default: the one that separates the cells of the first line.
        header: whether the first line names the columns; otherwise, the names are "1", "2" and so on. Default: true
            unless a cell of the line is the name of an image, or no cell is a usual name and one names a file.
        names_file: function that returns whether a cell names an existing file.

    Raises:
        DataError: two columns have the same name.
    """
    lines = text.splitlines(keepends=True) if "\x0b" not in text and "\x0c" not in text else _split_lines(text)
    start = next((number for number, line in enumerate(lines) if line.strip()), len(lines))
    if start < len(lines) and (note := EXCEL_NOTE.fullmatch(lines[start].strip("\r\n "))):
        delimiter, start = delimiter or note[1], start + 1
    if start == len(lines):
        return
    delimiter = delimiter or _guess_delimiter(where, lines[start])
    csv.field_size_limit(MAX_CELL)
    columns: list[str] | None = None
    for number, cells, problem in _read_records(lines, start, delimiter):
        if columns is None:
            if header is None:
                is_known = any(is_usual(content, cell) for content in USUAL_NAMES for cell in cells)
                header = not (any(map(_is_image_name, cells)) or (not is_known and any(map(names_file, cells))))
            if not header:
                columns = [str(position) for position in range(1, len(cells) + 1)]
            else:
                columns = [cell.strip() for cell in cells]
                repeated = sorted({name for name in columns if name and columns.count(name) > 1})
                if repeated:
                    raise DataError(f"{where} has two columns {repeated[0]!r}; rename one of them.")
                continue
        if problem is None and len(cells) > len(columns):
            problem = f"has {len(cells)} cells in {len(columns)} columns; quote cells that contain {delimiter!r}"
        yield RawRow(number, {} if problem else dict(zip(columns, cells, strict=False)), problem)


def _is_image_name(cell: str) -> bool:
    """Return whether a cell is an image name, to which Flickr's tables append the number of the caption."""
    name = re.sub(r"#\d+$", "", cell.strip().lower())
    return PurePosixPath(name.partition("?")[0] if "://" in name else name).suffix in EXTENSIONS


def _split_lines(text: str) -> list[str]:
    """Split a text at line feeds and carriage returns only, unlike `str.splitlines`."""
    return list(io.StringIO(text, newline=""))


def _guess_delimiter(where: Path, line: str) -> str:
    """Guess the delimiter from the first line: the most frequent, except that a .tsv or .token file prefers tabs."""
    if "\t" in line and where.suffix.lower() in (".tsv", ".token", ".txt"):
        return "\t"
    return max(DELIMITERS, key=line.count)


def _read_records(lines: Sequence[str], start: int, delimiter: str) -> Iterator[tuple[int, list[str], str | None]]:
    """Yield the line number and the cells of each row, or what is wrong with it."""
    position = start
    while position < len(lines):
        line = lines[position].rstrip("\r\n")
        number = position + 1
        position += 1
        if not line.strip():
            continue
        if '"' not in line:
            yield number, line.split(delimiter), None
            continue
        for more in range(MAX_LINES):
            try:
                record = "".join(lines[number - 1 : number + more])
                ((*cells,),) = csv.reader(io.StringIO(record, newline=""), delimiter=delimiter, strict=True)
            except csv.Error as error:
                is_open = "unexpected end of data" in str(error) and number + more < len(lines)
                if is_open and (delimiter != "\t" or "\t" not in lines[number + more]):
                    continue  # a cell with a line break
                if delimiter == "\t":  # such files often contain quotation marks as plain text
                    yield number, line.split(delimiter), None
                else:
                    yield number, [], 'has a quotation mark that is not closed; double it, as in "", or remove it'
                break
            except ValueError:  # several rows: the quotation ends in another row
                yield number, [], 'has a quotation mark that is not closed; double it, as in "", or remove it'
                break
            yield number, cells, None
            position = number + more
            break
        else:
            yield number, [], f"has a quotation mark that is not closed within {MAX_LINES:,} lines"

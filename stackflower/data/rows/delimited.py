"""Delimited text, as in CSV and TSV files."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath

from stackflower.data.image_formats import EXTENSIONS
from stackflower.data.rows.cells import show
from stackflower.data.rows.columns import USUAL_NAMES, is_usual
from stackflower.data.rows.names import CAPTION_NUMBER
from stackflower.errors import DataError

DELIMITERS = ",\t;|"
EXCEL_NOTE = re.compile(r"\"?sep=(.)\"?", re.IGNORECASE)  # line before the header, which Excel does not show
MAX_CELL = 10_000_000  # characters
MAX_LINES = 1_000  # per row, if cells contain line breaks


def read_delimited(
    text: str,
    where: Path,
    delimiter: str | None = None,
    header: bool | None = None,
    names_file: Callable[[str], bool] = lambda cell: False,
) -> Iterator[tuple[int, dict[str, str], str | None]]:
    """Read rows of delimited text. A row that can't be read does not affect the rows after it.

    Columns without a name are left out if they are empty, such as those that a spreadsheet adds to rows with more cells
    than names; pandas calls them "Unnamed: 2".

    Args:
        text: content of the file.
        where: name of the file, for messages.
        delimiter: character between cells. Default: the one that separates the cells of the first line.
        header: whether the first line names the columns; otherwise, the names are "1", "2" and so on. Default: true
            unless a cell of the line is the name of an image, or no cell is a usual name and one names a file.
        names_file: function that returns whether a cell names an existing file.

    Yields:
        The number of the line, from 1, the cells by column, and what is wrong with the row (the end of a sentence) or
        None.

    Raises:
        DataError: two columns have the same name.
    """
    lines = list(io.StringIO(text, newline=""))  # unlike `str.splitlines`, only at line feeds and carriage returns
    start = next((number for number, line in enumerate(lines) if line.strip()), len(lines))
    if start < len(lines) and (note := EXCEL_NOTE.fullmatch(lines[start].strip("\r\n "))):
        delimiter, start = delimiter or note[1], start + 1
    if start == len(lines):
        return
    delimiter = delimiter or _guess_delimiter(where, lines[start])
    csv.field_size_limit(MAX_CELL)
    columns: list[str] | None = None
    nameless: list[int] = []  # positions of columns without a name, except the first, which may be pandas' index
    for number, cells, problem in _read_records(lines, start, delimiter):
        if columns is None:
            if header is None:
                is_known = any(is_usual(content, cell) for content in USUAL_NAMES for cell in cells)
                header = not (any(map(_is_image_name, cells)) or (not is_known and any(map(names_file, cells))))
            if not header:
                columns = [str(position) for position in range(1, len(cells) + 1)]
            else:
                pandas_names = ["", *(f"Unnamed: {number}" for number in range(1, len(cells)))]
                columns = [cell.strip() or name for cell, name in zip(cells, pandas_names, strict=True)]
                nameless = [number for number, name in enumerate(columns) if number and name == pandas_names[number]]
                repeated = sorted({name for name in columns if name and columns.count(name) > 1})
                if repeated:
                    raise DataError(f"{where} has two columns {repeated[0]!r}; rename one of them.")
                continue
        if problem is None and len(cells) > len(columns):
            problem = f"has {len(cells)} cells in {len(columns)} columns; quote cells that contain {delimiter!r}"
        elif stray := next((cell for number in nameless for cell in cells[number : number + 1] if cell.strip()), None):
            advice = f"quote cells that contain {delimiter!r}, or name the column"
            problem = f"has text in a column without a name, {show(stray)}; {advice}"
        values = {} if problem else dict(zip(columns, cells, strict=False))
        for empty in nameless:
            values.pop(columns[empty], None)
        yield number, values, problem


def _is_image_name(cell: str) -> bool:
    """Return whether a cell is an image name, to which Flickr's tables append the number of the caption."""
    name = CAPTION_NUMBER.sub("", cell.strip().lower())
    return PurePosixPath(name.partition("?")[0] if "://" in name else name).suffix in EXTENSIONS


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

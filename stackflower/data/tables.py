"""Tables in files: CSV, with any delimiter, and Parquet."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from stackflower.errors import DataError, MissingDependency

COLUMNS = {  # usual names of the columns
    "image": (
        "file_name",
        "filename",
        "filepath",
        "file",
        "image",
        "image_path",
        "imagepath",
        "image_name",
        "path",
        "img",
    ),
    "text": ("text", "caption", "captions", "title", "description", "comment", "sentence", "prompt", "tags"),
    "label": ("label", "class", "class_id", "category_id", "target"),
    "split": ("split",),
}
LONGEST_CELL = 10_000_000  # characters


def read_csv(text: str, where: Path, delimiter: str = ",") -> Iterator[tuple[int, dict[str, Any] | str]]:
    """Read a table of delimited text; empty lines are skipped.

    Args:
        text: the table.
        where: name of the file, for messages.
        delimiter: character between cells.

    Yields:
        The line number of each row, and the row as a dict or what is wrong with it (the end of a sentence).

    Raises:
        DataError: two columns have the same name.
    """
    csv.field_size_limit(LONGEST_CELL)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    columns: list[str] | None = None
    while True:
        try:
            cells = next(reader, None)
        except csv.Error as error:
            yield reader.line_num, f"and all following lines can't be read as a table ({error})"
            return
        if cells is None:
            return
        if not any(cell.strip() for cell in cells):
            continue
        if columns is None:
            columns = [cell.strip() for cell in cells]
            repeated = {name for name in columns if name and columns.count(name) > 1}
            if repeated:
                raise DataError(f"{where} has two columns {sorted(repeated)[0]!r}; rename one of them.")
        elif len(cells) > len(columns):
            yield (
                reader.line_num,
                f"has {len(cells)} cells in {len(columns)} columns; quote cells that contain {delimiter!r}",
            )
        else:
            yield reader.line_num, dict(zip(columns, cells, strict=False))


def read_parquet(content: bytes, where: Path) -> Iterator[tuple[int, dict[str, Any] | str]]:
    """Read a Parquet file.

    Args:
        content: bytes of the file.
        where: name of the file, for messages.

    Yields:
        The number of each row, from 1, and the row.

    Raises:
        DataError: the file is damaged.
        MissingDependency: pyarrow is not installed.
    """
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile
    except ImportError:
        raise MissingDependency("pyarrow", "parquet", f"{where.name}") from None
    try:
        number = 0
        for batch in ParquetFile(io.BytesIO(content)).iter_batches():
            for row in batch.to_pylist():
                number += 1
                yield number, row
    except (ArrowException, OSError, ValueError) as error:
        raise DataError(f"{where} can't be read as a Parquet file ({error}).") from error


def parse_whole_number(cell: Any) -> int | None:
    """Parse a cell as a whole number; None if it is not one."""
    if isinstance(cell, int) and not isinstance(cell, bool):
        return cell
    return int(cell) if isinstance(cell, str) and re.fullmatch(r"-?\d{1,19}", cell) else None


def find_column(content: str, chosen: str | None, names: Sequence[str], where: object) -> str:
    """Find a column of a table.

    Args:
        content: what the column holds: "image", "text", "label" or "split".
        chosen: name of the column, if the user chose one. Default: find a column with a usual name.
        names: names of all columns.
        where: name of the table, for messages.

    Returns:
        The name of the column, or "" for no such column.

    Raises:
        DataError: the table does not have the chosen column.
    """
    if chosen is not None and chosen not in names:
        raise DataError(f"{where} has no column {chosen!r}; its columns are {', '.join(names) or 'none'}.")
    lower = {name.lower(): name for name in names}
    return chosen or next((lower[name] for name in COLUMNS[content] if name in lower), "")


def build_column_error(content: str, names: Sequence[str], where: object) -> DataError:
    """Build the error for a column that the user has to choose (see `find_column`)."""
    return DataError(
        f"Can't tell which column of {where} holds the {content} (columns: {', '.join(names) or 'none'}). Use "
        f"`data.{content}_column=NAME`."
    )

"""Tables in files: CSV and its kin, and Parquet."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from stackflower.errors import DataError, MissingDependency

COLUMNS = {  # usual names
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
    """Number of the line and row of each row, or what is wrong with it: the end of a sentence. Empty lines are passed over."""
    csv.field_size_limit(LONGEST_CELL)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    columns: list[str] | None = None
    while True:
        try:
            cells = next(reader, None)
        except csv.Error as error:
            yield reader.line_num, f"and what follows can't be read as a table ({error})"
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
    """The rows of a Parquet file, with their numbers from 1."""
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
    """A cell as a whole number, or None."""
    if isinstance(cell, int) and not isinstance(cell, bool):
        return cell
    return int(cell) if isinstance(cell, str) and re.fullmatch(r"-?\d{1,19}", cell) else None


def find_column(what: str, given: str | None, names: Sequence[str], where: object) -> str:
    """The column of a table that holds the image, the text, the label or the split: the given one, or one of a usual name; "" for none. DataError, with `where`, for a given
    one that there is not."""
    if given is not None and given not in names:
        raise DataError(f"{where} has no column {given!r}; its columns are {', '.join(names) or 'none'}.")
    lower = {name.lower(): name for name in names}
    return given or next((lower[name] for name in COLUMNS[what] if name in lower), "")


def build_column_error(what: str, names: Sequence[str], where: object) -> DataError:
    """The sentence about a column that has to be named."""
    return DataError(
        f"{where} has the columns {', '.join(names) or 'none'}, and which holds the {what} is not told by its name: "
        f"Use `data.{what}_column=NAME`."
    )

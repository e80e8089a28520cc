"""Tables in files: CSV and its kin, and Parquet."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from stackflower.errors import DataError, MissingDependency

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

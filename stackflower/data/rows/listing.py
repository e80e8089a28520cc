"""The rows of a split, and access to its images in files and cells."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from stackflower.data.files import Files
from stackflower.data.json_lines import JsonLines
from stackflower.data.rows.arrow import ArrowRows
from stackflower.data.rows.checks import check_row
from stackflower.errors import DataError


@dataclass
class Listing:
    """Checked rows of one split, and the problems of its unusable rows."""

    files: Files
    rows: JsonLines = field(default_factory=JsonLines)  # usable rows; their "file_name" is a name in `files`
    names: list[str] = field(default_factory=list)  # the "file_name" of each row
    problems: list[str] = field(default_factory=list)  # one sentence per unusable row
    notes: list[str] = field(default_factory=list)  # other messages for the user

    def add(self, row: dict[str, Any], where: str, needs_caption: bool = True) -> None:
        """Check a row, which has the key "file_name", and add it, or record the problem of the row at `where`."""
        row, problem = check_row(row, needs_caption)
        if problem:
            self.problems.append(f"{where} {problem}.")
        else:
            self.append(row)

    def copy(self, rows: JsonLines, number: int, name: str) -> None:
        """Add a checked row of a file, without parsing it, whose "file_name" is `name`."""
        self.rows.append_from(rows, number)
        self.names.append(name)

    def append(self, row: dict[str, Any]) -> None:
        """Add a checked row."""
        self.rows.append(row)
        self.names.append(row["file_name"])


class FilesAndCells(Files):
    """Files of a data set, and images in the cells of its tables, named ``TABLE/COLUMN/NUMBER``.

    Args:
        files: the files.
    """

    def __init__(self, files: Files):
        super().__init__(files.path)
        self.files, self.problems, self.refused = files, files.problems, files.refused
        self.cells: dict[str, tuple[ArrowRows, str, int]] = {}
        self.stamps: dict[str, object] = {}

    def add_cell(self, table: str, rows: ArrowRows, column: str, number: int) -> str:
        """Add the image in a cell of a table, and return its name."""
        name = f"{table}/{column}/{number:08d}"
        self.cells[name] = rows, column, number
        if table not in self.stamps:
            self.stamps[table] = self.files.stamp(table) if table in self.files else None
        return name

    def list_entries(self) -> Iterator[tuple[str, Any]]:
        yield from self.files.entries.items()
        yield from self.cells.items()

    def __contains__(self, name: object) -> bool:
        return name in self.cells or name in self.files

    def stamp(self, name: str) -> object:
        if name not in self.cells:
            return self.files.stamp(name)
        _, column, number = self.cells[name]
        return self.stamps[name.removesuffix(f"/{column}/{number:08d}")], number

    def read(self, name: str) -> bytes:
        if name not in self.cells:
            return self.files.read(name)
        rows, column, number = self.cells[name]
        try:
            return rows.read_image(column, number)
        except DataError as error:
            raise DataError(f"{self.path / name} can't be read: {error}") from error

    def head(self, name: str, size: int = 32) -> bytes:
        return self.read(name)[:size] if name in self.cells else self.files.head(name, size)

    def is_image(self, name: str) -> bool:
        return name in self.cells or self.files.is_image(name)

    def order_for_reading(self, names: Iterable[str]) -> list[str]:
        names = list(names)
        cells = [name for name in names if name in self.cells]  # in order, so that each row group is read once
        return [*self.files.order_for_reading([name for name in names if name not in self.cells]), *cells]

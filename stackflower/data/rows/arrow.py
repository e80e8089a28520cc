"""Parquet and Arrow files, whose cells may contain images. Images are read on demand, separately from the rows."""

from __future__ import annotations

import io
import json
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

from stackflower.data.image_formats import explain_lfs_pointer, read_head
from stackflower.errors import DataError, MissingDependency

ROWS_AT_ONCE = 1000
METADATA_KEY = b"huggingface"  # key under which `datasets` describes the columns


class ImageCell(NamedTuple):
    """Cell of an image column.

    Attributes:
        path: name of the image file, or None.
        is_filled: whether the cell contains the bytes of the image.
    """

    path: str | None
    is_filled: bool


class ArrowRows(ABC):
    """Rows of a Parquet or Arrow file.

    Args:
        schema: schema of the file.
    """

    def __init__(self, schema: Any):
        self.image_columns = [field.name for field in schema if _is_image(field.type)]
        self.class_names = _read_class_names(schema)

    @abstractmethod
    def read_rows(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yield the number of each row, from 1, and its cells by column, with `ImageCell` for images."""

    @abstractmethod
    def read_image(self, column: str, number: int) -> bytes:
        """Return the bytes of the image in a row, numbered from 1."""


class ArrowTable(ArrowRows):
    """Rows of a table in memory or in a memory-mapped file.

    Args:
        table: the table, a `pyarrow.Table`.
    """

    def __init__(self, table: Any):
        super().__init__(table.schema)
        self.table = table

    def read_rows(self) -> Iterator[tuple[int, dict[str, Any]]]:
        number = 0
        for batch in self.table.to_batches(max_chunksize=ROWS_AT_ONCE):
            columns = {
                name: _read_images(column) if name in self.image_columns else column.to_pylist()
                for name, column in zip(batch.schema.names, batch.columns, strict=True)
            }
            for row in range(batch.num_rows):
                number += 1
                yield number, {name: cells[row] for name, cells in columns.items()}

    def read_image(self, column: str, number: int) -> bytes:
        return _get_bytes(self.table.column(column)[number - 1].as_py())


class ParquetRows(ArrowRows):
    """Rows of a Parquet file. Images are read one row group at a time, and the last group is cached.

    Args:
        file: the file, a `pyarrow.parquet.ParquetFile`.
    """

    def __init__(self, file: Any):
        super().__init__(file.schema_arrow)
        self.file = file
        groups = (file.metadata.row_group(group).num_rows for group in range(file.metadata.num_row_groups))
        self.group_ends = list(accumulate(groups))  # number of the last row of each row group
        self._last_group: tuple[tuple[str, int], Any] | None = None

    def read_rows(self) -> Iterator[tuple[int, dict[str, Any]]]:
        import pyarrow

        names = self.file.schema_arrow.names
        plain = [name for name in names if name not in self.image_columns]
        for group, end in enumerate(self.group_ends):
            images = {name: self._read_image_cells(name, group) for name in self.image_columns}
            number = (self.group_ends[group - 1] if group else 0) + 1
            rows = self.file.iter_batches(ROWS_AT_ONCE, row_groups=[group], columns=plain) if plain else ()
            table = pyarrow.Table.from_batches(list(rows)) if plain else None
            columns = {name: table.column(name).to_pylist() for name in plain} if table is not None else {}
            for row in range(end - number + 1):
                yield number + row, {name: (images.get(name) or columns[name])[row] for name in names}

    def _read_image_cells(self, column: str, group: int) -> list[ImageCell]:
        """Return the cells of an image column; read the images only if some but not all cells may be empty."""
        metadata = self.file.metadata.row_group(group)
        leaves = [metadata.column(index) for index in range(metadata.num_columns)]
        named = {leaf.path_in_schema: leaf for leaf in leaves}
        content = named.get(f"{column}.bytes") or named[column]
        nulls = content.statistics.null_count if content.statistics is not None else None
        if nulls in (0, metadata.num_rows):
            paths = [None] * metadata.num_rows
            if f"{column}.path" in named:
                cells = self.file.read_row_group(group, columns=[f"{column}.path"]).column(column)
                paths = [cell and cell.get("path") for cell in cells.to_pylist()]
            return [ImageCell(path, nulls == 0) for path in paths]
        return _read_images(self.file.read_row_group(group, columns=[column]).column(column))

    def read_image(self, column: str, number: int) -> bytes:
        group = bisect_right(self.group_ends, number - 1)
        if self._last_group is None or self._last_group[0] != (column, group):
            self._last_group = (column, group), self.file.read_row_group(group, columns=[column]).column(column)
        return _get_bytes(self._last_group[1][number - 1 - (self.group_ends[group - 1] if group else 0)].as_py())


def open_arrow(file: Path | bytes, where: Path) -> ArrowRows:
    """Open a Parquet or Arrow file.

    Args:
        file: path or content of the file.
        where: name of the file, for messages.

    Raises:
        DataError: the file is damaged.
        MissingDependency: pyarrow is not installed.
    """
    try:
        import pyarrow
        from pyarrow import ArrowException, ipc, parquet
    except ImportError:
        raise MissingDependency("pyarrow", "parquet", f"{where.name}") from None
    is_parquet = where.suffix.lower() == ".parquet"
    try:
        if is_parquet:
            return ParquetRows(parquet.ParquetFile(io.BytesIO(file) if isinstance(file, bytes) else file))
        source = pyarrow.BufferReader(file) if isinstance(file, bytes) else pyarrow.memory_map(str(file))
        is_stream = source.read(6) != b"ARROW1"
        source.seek(0)
        return ArrowTable((ipc.open_stream(source) if is_stream else ipc.open_file(source)).read_all())
    except (ArrowException, OSError, ValueError) as error:
        kind = "a Parquet" if is_parquet else "an Arrow"
        if reason := explain_lfs_pointer(file if isinstance(file, bytes) else read_head(file)):
            raise DataError(f"{where} {reason}.") from error
        raise DataError(f"{where} can't be read as {kind} file ({error}).") from error


def _is_image(kind: Any) -> bool:
    """Return whether an Arrow type can hold images: bytes, or a struct with the field "bytes"."""
    from pyarrow import types

    if types.is_struct(kind):
        return any(field.name == "bytes" and _is_image(field.type) for field in kind)
    return bool(types.is_binary(kind) or types.is_large_binary(kind))


def _read_images(column: Any) -> list[ImageCell]:
    """Return the cells of an image column, without copying the images."""
    import pyarrow
    import pyarrow.compute as pc

    if isinstance(column, pyarrow.ChunkedArray):
        column = column.combine_chunks()
    if not pyarrow.types.is_struct(column.type):
        return [ImageCell(None, filled) for filled in pc.is_valid(column).to_pylist()]
    filled = pc.is_valid(pc.struct_field(column, "bytes")).to_pylist()
    has_path = column.type.get_field_index("path") >= 0
    paths = pc.struct_field(column, "path").to_pylist() if has_path else [None] * len(filled)
    return list(map(ImageCell, paths, filled))


def _get_bytes(cell: Any) -> bytes:
    content = cell.get("bytes") if isinstance(cell, Mapping) else cell
    if not isinstance(content, bytes):
        raise DataError("the cell contains no image.")
    return content


def _read_class_names(schema: Any) -> dict[str, Sequence[str]]:
    """Return the class names of each column that `datasets` declares as a ClassLabel."""
    try:
        features = json.loads((schema.metadata or {})[METADATA_KEY])["info"]["features"]
        return {
            name: [str(label) for label in feature["names"]]
            for name, feature in features.items()
            if feature.get("_type") == "ClassLabel" and feature.get("names")
        }
    except (KeyError, ValueError, TypeError, AttributeError):
        return {}

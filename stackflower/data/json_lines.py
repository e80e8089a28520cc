"""Sequences of JSON values in a file, read on access, which may be larger than the memory."""

from __future__ import annotations

import hashlib
import json
import tempfile
import threading
from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, overload

import numpy as np

from stackflower.errors import DataError
from stackflower.utils.atomic import reporting_write_errors

MAX_IN_MEMORY = 16 << 20  # bytes up to which a temporary file is held in memory
BLOCK_SIZE = 1 << 20  # bytes read at a time
ENCODER = json.JSONEncoder(ensure_ascii=False)  # made once: `json.dumps` would make one per value
ADVICE = "Free some disk space, or set the environment variable TMPDIR to another folder."


class LazySequence(Sequence[Any]):
    """Sequence whose values are loaded on access. It equals every sequence of the same values."""

    __hash__ = None  # type: ignore[assignment]

    @overload
    def __getitem__(self, index: int) -> Any: ...
    @overload
    def __getitem__(self, index: slice) -> list[Any]: ...
    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return [self.load(number) for number in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        return self.load(index % len(self))

    def load(self, number: int) -> Any:
        """Load the value at an index that is not negative."""
        raise NotImplementedError

    def __eq__(self, other: object) -> bool:
        same = isinstance(other, Sequence) and not isinstance(other, str) and len(self) == len(other)
        return same and all(one == another for one, another in zip(self, other, strict=True))  # type: ignore[call-overload]

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {len(self):,}>"


class JsonLines(LazySequence):
    """JSON values in a file, one per line.

    Args:
        path: file to read, which is not changed. Default: an empty temporary file, for `append`.

    Raises:
        ValueError: the file ends in the middle of a line.
    """

    def __init__(self, path: Path | None = None):
        self._file: IO[bytes] = tempfile.SpooledTemporaryFile(MAX_IN_MEMORY) if path is None else path.open("rb")  # noqa: SIM115
        self._ends = array("Q", [0])  # offsets of the ends of lines
        self._lock = threading.Lock()  # threads share the position in the file
        if path is not None:
            size = 0
            for block in iter(lambda: self._file.read(BLOCK_SIZE), b""):
                ends = np.flatnonzero(np.frombuffer(block, np.uint8) == ord("\n")) + size + 1
                self._ends.frombytes(ends.astype(np.uint64).tobytes())
                size += len(block)
            if self._ends[-1] != size:
                raise ValueError(f"{path.name} ends in the middle of a line")

    def append(self, value: Any) -> None:
        """Append a value to a temporary file.

        Raises:
            DataError: the disk is full.
        """
        self._append_line(_to_line(value))

    def append_from(self, other: JsonLines, number: int) -> None:
        """Append the value at an index of another file to a temporary file, without parsing it.

        Raises:
            DataError: the disk is full.
        """
        self._append_line(other._read(other._ends[number], other._ends[number + 1]))

    def _append_line(self, line: bytes) -> None:
        try:
            with self._lock:
                self._file.seek(self._ends[-1])
                self._file.write(line)
        except OSError:
            with reporting_write_errors(f"A temporary file in {tempfile.gettempdir()}", DataError, ADVICE):
                raise
        self._ends.append(self._ends[-1] + len(line))

    def extend(self, values: Iterable[Any]) -> None:
        """Append values to a temporary file (see `append`)."""
        for value in values:
            self.append(value)

    def __len__(self) -> int:
        return len(self._ends) - 1

    def load(self, number: int) -> Any:
        return json.loads(self._read(self._ends[number], self._ends[number + 1]))

    def __iter__(self) -> Iterator[Any]:
        first = 0
        while first < len(self):
            last = max(first + 1, bisect_right(self._ends, self._ends[first] + BLOCK_SIZE) - 1)
            yield from map(json.loads, self._read(self._ends[first], self._ends[last]).removesuffix(b"\n").split(b"\n"))
            first = last

    def compute_digest(self) -> bytes:
        """Return a hash of the file."""
        digest, end = hashlib.blake2b(digest_size=16), self._ends[-1]
        for start in range(0, end, BLOCK_SIZE):
            digest.update(self._read(start, min(start + BLOCK_SIZE, end)))
        return digest.digest()

    def _read(self, start: int, end: int) -> bytes:
        with self._lock:
            self._file.seek(start)
            return self._file.read(end - start)


class Column(LazySequence):
    """One key of the objects in a sequence.

    Args:
        rows: objects.
        name: the key.
    """

    def __init__(self, rows: Sequence[Any], name: str):
        self.rows, self.name = rows, name

    def __len__(self) -> int:
        return len(self.rows)

    def load(self, number: int) -> Any:
        return self.rows[number][self.name]

    def __iter__(self) -> Iterator[Any]:
        return (row[self.name] for row in self.rows)


def write_json_lines(path: Path, values: Iterable[Any]) -> None:
    """Write values as JSON, one per line."""
    with path.open("wb") as file:
        file.writelines(map(_to_line, values))


def _to_line(value: Any) -> bytes:
    return ENCODER.encode(value).encode("utf-8", "surrogatepass") + b"\n"

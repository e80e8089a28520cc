"""Sequences of JSON values in a file: read when asked for, so that there may be more of them than fit into memory."""

from __future__ import annotations

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

IN_MEMORY = 16 << 20  # bytes of a temporary file that are held in memory
AT_ONCE = 1 << 20  # bytes that are read at a time
ADVICE = "Free some disk space, or set the environment variable TMPDIR to a folder elsewhere."


class Lazy(Sequence[Any]):
    """A sequence whose values are made when they are asked for. It equals every sequence of the same values."""

    __hash__ = None  # type: ignore[assignment]

    @overload
    def __getitem__(self, place: int) -> Any: ...
    @overload
    def __getitem__(self, place: slice) -> list[Any]: ...
    def __getitem__(self, place: int | slice) -> Any:
        if isinstance(place, slice):
            return [self.value(number) for number in range(*place.indices(len(self)))]
        if not -len(self) <= place < len(self):
            raise IndexError(place)
        return self.value(place % len(self))

    def value(self, number: int) -> Any:
        """That of a number from 0."""
        raise NotImplementedError

    def __eq__(self, other: object) -> bool:
        same = isinstance(other, Sequence) and not isinstance(other, str) and len(self) == len(other)
        return same and all(mine == theirs for mine, theirs in zip(self, other, strict=True))  # type: ignore[call-overload]

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {len(self):,}>"


class JsonLines(Lazy):
    """JSON values, one a line.

    Args:
        path: a file of them, which is not changed; None: a temporary file, empty at first, for `append`. ValueError
            where it ends within a line.
    """

    def __init__(self, path: Path | None = None):
        self._file: IO[bytes] = tempfile.SpooledTemporaryFile(IN_MEMORY) if path is None else path.open("rb")  # noqa: SIM115
        self._ends = array("Q", [0])  # offsets
        self._lock = threading.Lock()  # two threads would move each other's place
        if path is not None:
            size = 0
            for block in iter(lambda: self._file.read(AT_ONCE), b""):
                ends = np.flatnonzero(np.frombuffer(block, np.uint8) == ord("\n")) + size + 1
                self._ends.frombytes(ends.astype(np.uint64).tobytes())
                size += len(block)
            if self._ends[-1] != size:
                raise ValueError(f"{path.name} ends within a line")

    def append(self, value: Any) -> None:
        """One more, at the end of a temporary file. DataError where there is no room."""
        line = _line(value)
        with reporting_write_errors(f"A temporary file in {tempfile.gettempdir()}", DataError, ADVICE), self._lock:
            self._file.seek(self._ends[-1])
            self._file.write(line)
        self._ends.append(self._ends[-1] + len(line))

    def extend(self, values: Iterable[Any]) -> None:
        for value in values:
            self.append(value)

    def __len__(self) -> int:
        return len(self._ends) - 1

    def value(self, number: int) -> Any:
        return json.loads(self._read(self._ends[number], self._ends[number + 1]))

    def __iter__(self) -> Iterator[Any]:
        first = 0
        while first < len(self):
            last = max(first + 1, bisect_right(self._ends, self._ends[first] + AT_ONCE) - 1)
            yield from map(json.loads, self._read(self._ends[first], self._ends[last]).removesuffix(b"\n").split(b"\n"))
            first = last

    def _read(self, start: int, end: int) -> bytes:
        with self._lock:
            self._file.seek(start)
            return self._file.read(end - start)


class Column(Lazy):
    """What the values of a sequence, which are objects, have under a name."""

    def __init__(self, rows: Sequence[Any], name: str):
        self.rows, self.name = rows, name

    def __len__(self) -> int:
        return len(self.rows)

    def value(self, number: int) -> Any:
        return self.rows[number][self.name]

    def __iter__(self) -> Iterator[Any]:
        return (row[self.name] for row in self.rows)


def write_json_lines(path: Path, values: Iterable[Any]) -> None:
    """Write values, one a line."""
    with path.open("wb") as file:
        file.writelines(map(_line, values))


def _line(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n"

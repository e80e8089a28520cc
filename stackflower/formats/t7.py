"""Torch7's serialised files (``.t7``), in which the char-CNN-RNN of Reed et al. (2016) wrote its embeddings.

Binary, little-endian: each object begins with a type code; tables and tensors have a number, by which they may come
again. Functions are refused.
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np

from stackflower.errors import DataError

NIL, NUMBER, STRING, TABLE, TORCH, BOOLEAN = range(6)
TYPES = {
    "Float": np.dtype("<f4"),
    "Double": np.dtype("<f8"),
    "Byte": np.dtype("u1"),
    "Char": np.dtype("i1"),
    "Short": np.dtype("<i2"),
    "Int": np.dtype("<i4"),
    "Long": np.dtype("<i8"),
    "Cuda": np.dtype("<f4"),
}
MOST_DIMENSIONS = 16


class _Reader:
    def __init__(self, content: bytes):
        self.content, self.place = content, 0
        self.known: dict[int, Any] = {}

    def take(self, size: int) -> bytes:
        if size < 0 or self.place + size > len(self.content):
            raise EOFError("it is cut off")
        self.place += size
        return self.content[self.place - size : self.place]

    def integers(self, count: int, code: str = "i") -> tuple[int, ...]:
        pattern = f"<{count}{code}"
        return struct.unpack(pattern, self.take(struct.calcsize(pattern)))

    def string(self) -> str:
        (size,) = self.integers(1)
        return self.take(size).decode("latin1")

    def read(self) -> Any:
        (code,) = self.integers(1)
        if code == NIL:
            return None
        if code == NUMBER:
            return struct.unpack("<d", self.take(8))[0]
        if code == STRING:
            return self.string()
        if code == BOOLEAN:
            return bool(self.integers(1)[0])
        if code not in (TABLE, TORCH):
            raise ValueError(f"it holds an object of type {code}, such as a function")
        (number,) = self.integers(1)
        if number not in self.known:
            if code == TABLE:
                self.table(number)
            else:
                self.torch(number)
        return self.known[number]

    def table(self, number: int) -> None:
        found: dict[Any, Any] = {}
        self.known[number] = found
        for _ in range(self.integers(1)[0]):
            key, value = self.read(), self.read()
            if not isinstance(key, (str, float, bool)):
                raise ValueError("it has a table with a key that is no string or number")
            found[int(key) if isinstance(key, float) and key.is_integer() else key] = value

    def torch(self, number: int) -> None:
        version = self.string()
        name = self.string() if version.startswith("V ") else version
        kind, _, what = name.removeprefix("torch.").rpartition("Tensor")
        if name.startswith("torch.") and name.endswith("Storage"):
            dtype: Any = TYPES.get(name.removeprefix("torch.").removesuffix("Storage"))
            if dtype is None:
                raise ValueError(f"it holds a {name}")
            (size,) = self.integers(1, "q")
            self.known[number] = np.frombuffer(self.take(size * dtype.itemsize), dtype)
        elif name.startswith("torch.") and kind in TYPES and not what:
            self.known[number] = self.tensor()
        else:
            raise ValueError(f"it holds a {name}, which is no tensor")

    def tensor(self) -> np.ndarray:
        (dimensions,) = self.integers(1)
        if not 0 <= dimensions <= MOST_DIMENSIONS:
            raise ValueError(f"it holds a tensor of {dimensions} dimensions")
        shape, strides = self.integers(dimensions, "q"), self.integers(dimensions, "q")
        (offset,) = self.integers(1, "q")
        storage = self.read()
        if storage is None or not dimensions:
            return np.empty(0, np.float32)
        if min(shape) < 0 or min(strides) < 0 or offset < 1:
            raise ValueError("it holds a tensor of no possible shape")
        last = offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
        if (
            not isinstance(storage, np.ndarray)
            or (0 not in shape and last > len(storage))
            or np.prod(shape, dtype=float) > len(storage)
        ):
            raise ValueError("it holds a tensor that is larger than its numbers")
        steps = tuple(stride * storage.itemsize for stride in strides)
        return np.lib.stride_tricks.as_strided(storage[offset - 1 :], shape, steps, writeable=False).copy()


def load_t7(content: bytes, name: object) -> Any:
    """What a ``.t7`` file holds: arrays, numbers, strings, booleans and dictionaries of them.

    DataError, with `name`, for anything else.
    """
    try:
        return _Reader(content).read()
    except (EOFError, ValueError, struct.error, RecursionError, OverflowError, MemoryError) as error:
        raise DataError(f"{name} can't be read as a file of Torch7 ({error}).") from error

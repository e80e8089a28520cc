"""Reader of Torch7's serialised files (``.t7``), which hold the embeddings of the char-CNN-RNN of Reed et al. (2016).

The format is binary and little-endian. Each object begins with a type code; tables and tensors have a number, by which
later objects refer to them. Functions are refused.
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np

from stackflower.errors import DataError

NIL, NUMBER, STRING, TABLE, TORCH, BOOLEAN = range(6)
DTYPES = {
    "Float": np.dtype("<f4"),
    "Double": np.dtype("<f8"),
    "Byte": np.dtype("u1"),
    "Char": np.dtype("i1"),
    "Short": np.dtype("<i2"),
    "Int": np.dtype("<i4"),
    "Long": np.dtype("<i8"),
    "Cuda": np.dtype("<f4"),
}
MAX_DIMENSIONS = 16


class _Reader:
    """Reader of the objects of one file."""

    def __init__(self, content: bytes):
        self.content, self.position = content, 0
        self.objects: dict[int, Any] = {}  # tables, tensors and storages by their numbers

    def read_bytes(self, size: int) -> bytes:
        if size < 0 or self.position + size > len(self.content):
            raise EOFError("the file is cut off")
        self.position += size
        return self.content[self.position - size : self.position]

    def read_integers(self, count: int, code: str = "i") -> tuple[int, ...]:
        pattern = f"<{count}{code}"
        return struct.unpack(pattern, self.read_bytes(struct.calcsize(pattern)))

    def read_string(self) -> str:
        (size,) = self.read_integers(1)
        return self.read_bytes(size).decode("latin1")

    def read(self) -> Any:
        """Read the next object."""
        (code,) = self.read_integers(1)
        if code == NIL:
            return None
        if code == NUMBER:
            return struct.unpack("<d", self.read_bytes(8))[0]
        if code == STRING:
            return self.read_string()
        if code == BOOLEAN:
            return bool(self.read_integers(1)[0])
        if code not in (TABLE, TORCH):
            raise ValueError(f"it holds an object of type {code}, such as a function")
        (number,) = self.read_integers(1)
        if number not in self.objects:
            if code == TABLE:
                self.read_table(number)
            else:
                self.read_torch(number)
        return self.objects[number]

    def read_table(self, number: int) -> None:
        """Read a table as a dict, with integers for keys that are whole numbers."""
        table: dict[Any, Any] = {}
        self.objects[number] = table  # before its entries, which may refer to it
        for _ in range(self.read_integers(1)[0]):
            key, value = self.read(), self.read()
            if not isinstance(key, (str, float, bool)):
                raise ValueError("it holds a table with a key that is neither a string nor a number")
            table[int(key) if isinstance(key, float) and key.is_integer() else key] = value

    def read_torch(self, number: int) -> None:
        """Read a tensor or a storage as an array."""
        version = self.read_string()
        name = self.read_string() if version.startswith("V ") else version
        kind, _, suffix = name.removeprefix("torch.").rpartition("Tensor")
        if name.startswith("torch.") and name.endswith("Storage"):
            dtype: Any = DTYPES.get(name.removeprefix("torch.").removesuffix("Storage"))
            if dtype is None:
                raise ValueError(f"it holds a {name}")
            (size,) = self.read_integers(1, "q")
            self.objects[number] = np.frombuffer(self.read_bytes(size * dtype.itemsize), dtype)
        elif name.startswith("torch.") and kind in DTYPES and not suffix:
            self.objects[number] = self.read_tensor()
        else:
            raise ValueError(f"it holds a {name}, which is not a tensor")

    def read_tensor(self) -> np.ndarray:
        (dimensions,) = self.read_integers(1)
        if not 0 <= dimensions <= MAX_DIMENSIONS:
            raise ValueError(f"it holds a tensor of {dimensions} dimensions")
        shape, strides = self.read_integers(dimensions, "q"), self.read_integers(dimensions, "q")
        (offset,) = self.read_integers(1, "q")
        storage = self.read()
        if storage is None or not dimensions:
            return np.empty(0, np.float32)
        if min(shape) < 0 or min(strides) < 0 or offset < 1:
            raise ValueError("it holds a tensor of an impossible shape")
        last = offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
        if (
            not isinstance(storage, np.ndarray)
            or (0 not in shape and last > len(storage))
            or np.prod(shape, dtype=float) > len(storage)
        ):
            raise ValueError("it holds a tensor that is larger than its storage")
        byte_strides = tuple(stride * storage.itemsize for stride in strides)
        return np.lib.stride_tricks.as_strided(storage[offset - 1 :], shape, byte_strides, writeable=False).copy()


def load_t7(content: bytes, name: object) -> Any:
    """Load a ``.t7`` file.

    Args:
        content: bytes of the file.
        name: name of the file, for messages.

    Returns:
        The object in the file: None, an array, number, string or boolean, or a dict of such objects.

    Raises:
        DataError: the file is damaged or holds anything else.
    """
    try:
        return _Reader(content).read()
    except (EOFError, ValueError, struct.error, RecursionError, OverflowError, MemoryError) as error:
        raise DataError(f"{name} can't be read as a Torch7 file: {error}.") from error

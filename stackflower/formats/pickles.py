"""Pickles of other projects, read without running what they hold.

A pickle is a program that may call anything. This reader knows arrays, numbers, strings, lists, tuples and dictionaries, and tables of pandas, which it
rebuilds itself; whatever else a pickle names is refused before it is looked up. Pickles of Python 2 are read with ``latin1``, as NumPy requires.
"""

from __future__ import annotations

import io
import pickle
import struct
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np

from stackflower.errors import DataError

LARGEST = 4 * 2**30  # bytes
# as keys, tuples in tuples would take a time exponential in their depth to hash
KEYS = (str, bytes, int, float, np.generic)


class Inert:
    """What a pickle of pandas builds: the arguments and the state that it is given, and nothing is done with them."""

    def __init__(self, *arguments: Any):
        self.arguments, self.state = arguments, None

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __reduce__(self) -> Any:
        raise TypeError("it is not pickled again")


class _Array(np.ndarray):
    """An array to which a pickle gives its content; without content it is empty, whatever shape it claims."""

    def __new__(cls, *_: Any) -> Any:
        return super().__new__(cls, (0,), dtype=np.uint8)


def _reconstruct(*_: Any) -> Any:
    return _Array()


def _scalar(dtype: Any, content: Any = b"") -> Any:
    if not isinstance(dtype, np.dtype) or dtype.hasobject:
        raise DataError("holds a number of no known type")
    content = content.encode("latin1") if isinstance(content, str) else content
    return np.frombuffer(content, dtype, count=1)[0]


def _dtype(code: Any, *_: Any) -> np.dtype[Any]:
    if not isinstance(code, str) or len(code) > 16:
        raise DataError("holds numbers of no known type")
    return np.dtype(code)


def _encode(text: str, encoding: str = "latin1") -> bytes:
    if encoding not in ("latin1", "latin-1"):
        raise DataError(f"holds bytes as {encoding}")
    return text.encode("latin1")


def _frombuffer(buffer: Any, dtype: Any, shape: Any, order: str = "C") -> np.ndarray:
    """NumPy's own form of arrays in pickles of protocol 5."""
    return np.frombuffer(buffer, dtype).reshape(shape, order="F" if order == "F" else "C")


_NUMPY: dict[str, Callable[..., Any]] = {
    "_reconstruct": _reconstruct,
    "scalar": _scalar,
    "_frombuffer": _frombuffer,
}
_KNOWN: dict[tuple[str, str], Any] = {
    **{
        (f"numpy.{core}.{module}", name): found
        for core in ("core", "_core")
        for module in ("multiarray", "numeric")
        for name, found in _NUMPY.items()
    },
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _dtype,
    ("_codecs", "encode"): _encode,
    ("builtins", "bytes"): lambda *given: bytes(given[0]) if given and isinstance(given[0], (bytes, list)) else b"",
    ("builtins", "slice"): slice,
    ("__builtin__", "slice"): slice,
}
_PANDAS = (
    "DataFrame",
    "Series",
    "BlockManager",
    "SingleBlockManager",
    "Index",
    "Int64Index",
    "RangeIndex",
    "_new_Index",
    "_unpickle_block",
    "new_block",
)


class _Reader(pickle._Unpickler):  # the one in C can't be told what may be a key
    """Builds what is known, and refuses the rest."""

    dispatch: ClassVar[dict[int, Callable[..., Any]]] = dict(pickle._Unpickler.dispatch)
    stack: list[Any]
    metastack: list[list[Any]]

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _KNOWN:
            return _KNOWN[module, name]
        if module.partition(".")[0] == "pandas" and name in _PANDAS:
            return Inert
        if module.partition(".")[0] == "pandas":
            raise DataError(f"is a table with {module}.{name}, which is not known; save it as CSV or Parquet")
        raise DataError(f"names {module}.{name}, which could run code")

    def persistent_load(self, pid: Any) -> Any:
        raise DataError("refers to something outside of it")

    def _call(self, function: Any, arguments: Any) -> Any:
        allowed = function is Inert or any(function is each for each in _KNOWN.values())
        if not allowed or not isinstance(arguments, tuple):
            raise DataError("calls what it may not")
        return function(*arguments)

    def load_reduce(self) -> None:
        arguments = self.stack.pop()
        self.stack[-1] = self._call(self.stack[-1], arguments)

    def load_newobj(self) -> None:
        arguments = self.stack.pop()
        self.stack[-1] = self._call(self.stack[-1], arguments)

    def load_build(self) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        if isinstance(target, _Array):
            self.stack[-1] = _filled(state)
            self._replace(target, self.stack[-1])
        elif isinstance(target, np.dtype):
            self.stack[-1] = _completed(target, state)
            self._replace(target, self.stack[-1])
        elif isinstance(target, Inert):
            target.state = state
        else:
            raise DataError("sets the state of what has none")

    def _replace(self, old: Any, new: Any) -> None:
        """Put what was completed where the pickle remembers it: as a rule the last."""
        memo = self.memo  # type: ignore[attr-defined]
        for key in reversed(memo):
            if memo[key] is old:
                memo[key] = new
                return

    def load_setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        _put(self.stack[-1], key, value)

    def load_setitems(self) -> None:
        items = self.pop_mark()  # type: ignore[attr-defined]
        for place in range(0, len(items), 2):
            _put(self.stack[-1], items[place], items[place + 1])

    def load_dict(self) -> None:
        items = self.pop_mark()  # type: ignore[attr-defined]
        found: dict[Any, Any] = {}
        for place in range(0, len(items), 2):
            _put(found, items[place], items[place + 1])
        self.append(found)  # type: ignore[attr-defined]

    def load_appends(self) -> None:
        items = self.pop_mark()  # type: ignore[attr-defined]
        if not isinstance(self.stack[-1], list):
            raise DataError("appends to what is no list")
        self.stack[-1].extend(items)

    def load_append(self) -> None:
        value = self.stack.pop()
        if not isinstance(self.stack[-1], list):
            raise DataError("appends to what is no list")
        self.stack[-1].append(value)

    def refuse(self) -> None:
        raise DataError("holds sets or objects, which are not read")


def _put(target: Any, key: Any, value: Any) -> None:
    if not isinstance(target, dict) or not isinstance(key, KEYS):
        raise DataError("has a key that is no string or number")
    target[key] = value


def _filled(state: Any) -> np.ndarray:
    """An array of the state that NumPy pickles: version, shape, type, order and content."""
    _, shape, dtype, fortran, content = state
    content = content.encode("latin1") if isinstance(content, str) else content
    if isinstance(content, list):  # of objects
        found = np.empty(len(content), dtype=object)
        found[:] = content
    else:
        if dtype.hasobject:
            raise DataError("holds objects where bytes were said to be")
        found = np.frombuffer(content, dtype)
    return found.reshape(shape, order="F" if fortran else "C")


def _completed(dtype: np.dtype[Any], state: Any) -> np.dtype[Any]:
    """A type with its byte order."""
    order = state[1] if isinstance(state, tuple) and len(state) > 1 else "|"
    order = order.decode() if isinstance(order, bytes) else order
    return dtype.newbyteorder("<" if order == "<" else ">") if order in ("<", ">") else dtype


for _code, _method in (
    (pickle.REDUCE, "load_reduce"),
    (pickle.NEWOBJ, "load_newobj"),
    (pickle.BUILD, "load_build"),
    (pickle.SETITEM, "load_setitem"),
    (pickle.SETITEMS, "load_setitems"),
    (pickle.DICT, "load_dict"),
    (pickle.APPEND, "load_append"),
    (pickle.APPENDS, "load_appends"),
    *(
        (code, "refuse")
        for code in (pickle.INST, pickle.OBJ, pickle.NEWOBJ_EX, pickle.EMPTY_SET, pickle.ADDITEMS, pickle.FROZENSET)
    ),
    *((code, "refuse") for code in (pickle.EXT1, pickle.EXT2, pickle.EXT4, pickle.NEXT_BUFFER, pickle.PERSID)),
):
    _Reader.dispatch[_code[0]] = getattr(_Reader, _method)


def load_pickle(content: bytes, name: object) -> Any:
    """What a pickle holds: arrays, numbers, strings, lists, tuples and dictionaries; `Inert` for what pandas pickles.

    DataError, with `name`, for a pickle that holds anything else, or is damaged.
    """
    if len(content) > LARGEST:
        raise DataError(f"{name} has {len(content):,} bytes; pickles of at most {LARGEST:,} are read.")
    try:
        return _Reader(io.BytesIO(content), encoding="latin1").load()
    except DataError as error:
        raise DataError(f"{name} {error}; it is not read.") from error
    except (
        pickle.UnpicklingError, EOFError, ValueError, TypeError, IndexError, KeyError, AttributeError, struct.error, OverflowError,
        MemoryError, RecursionError, UnicodeError, LookupError,
    ) as error:  # fmt: skip
        raise DataError(f"{name} is no pickle that can be read ({str(error) or type(error).__name__}).") from error


def load_npy(content: bytes, name: object) -> np.ndarray:
    """The array of a ``.npy`` file; one of objects by `load_pickle`. DataError, with `name`, for anything else."""
    file = io.BytesIO(content)
    try:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        _, _, dtype = read(file)
        if dtype.hasobject:
            found = load_pickle(content[file.tell() :], name)
            return np.asarray(found) if not isinstance(found, np.ndarray) else found
        return np.asarray(np.load(io.BytesIO(content), allow_pickle=False))
    except DataError:
        raise
    except Exception as error:  # its header is parsed as Python, and a damaged one raises anything
        raise DataError(f"{name} is no .npy file that can be read ({error}).") from error

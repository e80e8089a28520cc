"""Safe reader of other projects' pickles.

A pickle is a program that may call any function. This reader builds arrays, numbers, strings, lists, tuples,
dictionaries and the parts of pandas tables itself, and refuses everything else before looking it up. Pickles of
Python 2 are read with ``latin1``, as NumPy requires.
"""

from __future__ import annotations

import io
import pickle
import struct
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np

from stackflower.errors import DataError

MAX_SIZE = 4 * 2**30  # bytes
# Tuples are not allowed as keys: hashing nested ones can take a time exponential in their depth.
KEY_TYPES = (str, bytes, int, float, np.generic)


class Inert:
    """Placeholder for an object of pandas: keeps its pickled arguments and state, and does nothing with them."""

    def __init__(self, *arguments: Any):
        self.arguments, self.state = arguments, None

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __reduce__(self) -> Any:
        raise TypeError("it can't be pickled again")


# ---- what a pickle may call: each function replaces one of NumPy or Python, and checks its arguments


class _Array(np.ndarray):
    """Array that gets its content from the pickle later, and is empty until then, whatever shape the pickle claims."""

    def __new__(cls, *_: Any) -> Any:
        return super().__new__(cls, (0,), dtype=np.uint8)


def _reconstruct(*_: Any) -> Any:
    return _Array()


def _scalar(dtype: Any, content: Any = b"") -> Any:
    if not isinstance(dtype, np.dtype) or dtype.hasobject:
        raise DataError("holds a number of an unknown type")
    content = content.encode("latin1") if isinstance(content, str) else content
    return np.frombuffer(content, dtype, count=1)[0]


def _dtype(code: Any, *_: Any) -> np.dtype[Any]:
    if not isinstance(code, str) or len(code) > 16:
        raise DataError("holds numbers of an unknown type")
    return np.dtype(code)


def _encode(text: str, encoding: str = "latin1") -> bytes:
    if encoding not in ("latin1", "latin-1"):
        raise DataError(f"holds bytes encoded as {encoding}")
    return text.encode("latin1")


def _bytes(*arguments: Any) -> bytes:
    return bytes(arguments[0]) if arguments and isinstance(arguments[0], (bytes, list)) else b""


def _frombuffer(buffer: Any, dtype: Any, shape: Any, order: str = "C") -> np.ndarray:
    """Build an array from the form that NumPy writes in pickles of protocol 5."""
    return np.frombuffer(buffer, dtype).reshape(shape, order="F" if order == "F" else "C")


_NUMPY: dict[str, Callable[..., Any]] = {"_reconstruct": _reconstruct, "scalar": _scalar, "_frombuffer": _frombuffer}
_CALLABLE: dict[tuple[str, str], Any] = {
    **{
        (f"numpy.{core}.{module}", name): function
        for core in ("core", "_core")  # NumPy 1 and 2
        for module in ("multiarray", "numeric")
        for name, function in _NUMPY.items()
    },
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _dtype,
    ("_codecs", "encode"): _encode,
    ("builtins", "bytes"): _bytes,
    ("builtins", "slice"): slice,
    ("__builtin__", "slice"): slice,
}
_PANDAS = {
    *("DataFrame", "Series", "BlockManager", "SingleBlockManager", "_unpickle_block", "new_block"),
    *("Index", "Int64Index", "RangeIndex", "_new_Index"),
}


# ---- the reader

# Opcodes that are refused: they create instances in other ways than REDUCE and NEWOBJ, create sets, or refer to objects
# outside the pickle (in the extension registry, in buffers or by a persistent id).
_REFUSED = (
    *(pickle.INST, pickle.OBJ, pickle.NEWOBJ_EX),
    *(pickle.EMPTY_SET, pickle.ADDITEMS, pickle.FROZENSET),
    *(pickle.EXT1, pickle.EXT2, pickle.EXT4, pickle.NEXT_BUFFER, pickle.PERSID),
)


class _Reader(pickle._Unpickler):  # the unpickler in C can't restrict the types of keys
    """Unpickler that builds the allowed objects and refuses all others.

    Opcodes that push constants, tuples and marks or use the memo are inherited. Those that call a function, set a state
    or fill a container check their arguments first; `dispatch`, at the end of the class, maps each to its method.
    """

    # attributes of `pickle._Unpickler`
    stack: list[Any]
    memo: dict[int, Any]
    append: Callable[[Any], None]
    pop_mark: Callable[[], list[Any]]

    def find_class(self, module: str, name: str) -> Any:
        """Return what stands for a name; nothing is imported."""
        if (module, name) in _CALLABLE:
            return _CALLABLE[module, name]
        if module.partition(".")[0] == "pandas":
            if name in _PANDAS:
                return Inert
            raise DataError(f"is a table with {module}.{name}, which can't be read; save it as CSV or Parquet")
        raise DataError(f"names {module}.{name}, which could run code")

    def persistent_load(self, pid: Any) -> Any:
        """Refuse a reference to an object outside the pickle."""
        raise DataError("refers to an object outside the pickle")

    def load_call(self) -> None:
        """Call a function, if it is one: a malicious pickle may put any value in its place."""
        arguments, function = self.stack.pop(), self.stack[-1]
        allowed = function is Inert or any(function is each for each in _CALLABLE.values())
        if not allowed or not isinstance(arguments, tuple):
            raise DataError("calls something that is not allowed")
        self.stack[-1] = function(*arguments)

    def load_build(self) -> None:
        """Set the state of an object; arrays and dtypes, which can't be changed in place, are replaced."""
        state, target = self.stack.pop(), self.stack[-1]
        if isinstance(target, _Array):
            self._replace(target, _fill(state))
        elif isinstance(target, np.dtype):
            self._replace(target, _set_byte_order(target, state))
        elif isinstance(target, Inert):
            target.state = state
        else:
            raise DataError("sets the state of an object that has none")

    def _replace(self, old: Any, new: Any) -> None:
        """Replace the value on top of the stack, and in the memo, where it is usually the last."""
        self.stack[-1] = new
        for key in reversed(self.memo):
            if self.memo[key] is old:
                self.memo[key] = new
                return

    def load_dict(self) -> None:
        """Push a dictionary of the items above the mark."""
        items = self.pop_mark()
        self.append({})
        self._set_items(items)

    def load_setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._set_items([key, value])

    def load_setitems(self) -> None:
        self._set_items(self.pop_mark())

    def _set_items(self, items: list[Any]) -> None:
        """Set items, keys and values in turn, in the dictionary on top of the stack."""
        target = self.stack[-1]
        for position in range(0, len(items), 2):
            key, value = items[position], items[position + 1]
            if not isinstance(target, dict) or not isinstance(key, KEY_TYPES):
                raise DataError("has a key that is neither a string nor a number")
            target[key] = value

    def load_append(self) -> None:
        self._extend([self.stack.pop()])

    def load_appends(self) -> None:
        self._extend(self.pop_mark())

    def _extend(self, items: list[Any]) -> None:
        if not isinstance(self.stack[-1], list):
            raise DataError("appends to something that is not a list")
        self.stack[-1].extend(items)

    def refuse(self) -> None:
        """Refuse an opcode."""
        raise DataError("holds sets or other objects, which are not read")

    dispatch: ClassVar[dict[int, Callable[..., Any]]] = {
        **pickle._Unpickler.dispatch,
        pickle.REDUCE[0]: load_call,
        pickle.NEWOBJ[0]: load_call,
        pickle.BUILD[0]: load_build,
        pickle.DICT[0]: load_dict,
        pickle.SETITEM[0]: load_setitem,
        pickle.SETITEMS[0]: load_setitems,
        pickle.APPEND[0]: load_append,
        pickle.APPENDS[0]: load_appends,
        **dict.fromkeys((code[0] for code in _REFUSED), refuse),
    }


def _fill(state: Any) -> np.ndarray:
    """Build an array from its pickled state: version, shape, dtype, order and content."""
    _, shape, dtype, fortran, content = state
    content = content.encode("latin1") if isinstance(content, str) else content
    if isinstance(content, list):  # an array of objects
        array = np.empty(len(content), dtype=object)
        array[:] = content
    else:
        if dtype.hasobject:
            raise DataError("holds an array of objects with bytes for content")
        array = np.frombuffer(content, dtype)
    return array.reshape(shape, order="F" if fortran else "C")


def _set_byte_order(dtype: np.dtype[Any], state: Any) -> np.dtype[Any]:
    """Return a dtype with the byte order of its pickled state."""
    order = state[1] if isinstance(state, tuple) and len(state) > 1 else "|"
    order = order.decode() if isinstance(order, bytes) else order
    return dtype.newbyteorder("<" if order == "<" else ">") if order in ("<", ">") else dtype


# what Python's unpickler and NumPy raise for a damaged pickle
_DAMAGE = (
    pickle.UnpicklingError,
    EOFError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    struct.error,
    OverflowError,
    MemoryError,
    RecursionError,
)


def load_pickle(content: bytes, name: object) -> Any:
    """Load a pickle without running code from it.

    Args:
        content: bytes of the pickle.
        name: name of the file, for messages.

    Returns:
        The object in the pickle: an array, number or string, or a list, tuple or dictionary of such objects; `Inert`
        for an object of pandas.

    Raises:
        DataError: the pickle is damaged, too large, or holds anything else.
    """
    if len(content) > MAX_SIZE:
        raise DataError(f"{name} has {len(content):,} bytes; the limit for pickles is {MAX_SIZE:,}.")
    try:
        return _Reader(io.BytesIO(content), encoding="latin1").load()
    except DataError as error:
        raise DataError(f"{name} {error}; it is not read.") from error
    except _DAMAGE as error:
        raise DataError(f"{name} can't be read as a pickle ({str(error) or type(error).__name__}).") from error


def load_npy(content: bytes, name: object) -> np.ndarray:
    """Load the array in a ``.npy`` file; an array of objects is read by `load_pickle`.

    Args:
        content: bytes of the file.
        name: name of the file, for messages.

    Raises:
        DataError: the file is damaged or not in this format.
    """
    file = io.BytesIO(content)
    try:
        version = np.lib.format.read_magic(file)
        read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        _, _, dtype = read_header(file)
        if dtype.hasobject:
            value = load_pickle(content[file.tell() :], name)
            return value if isinstance(value, np.ndarray) else np.asarray(value)
        return np.asarray(np.load(io.BytesIO(content), allow_pickle=False))
    except DataError:
        raise
    except Exception as error:  # the header is parsed as Python, so damage may raise any exception
        raise DataError(f"{name} can't be read as a .npy file ({error}).") from error

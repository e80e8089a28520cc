"""Pickles of other projects, read without running what they hold.

A pickle is a program that may call anything. This reader knows arrays, numbers, strings, lists, tuples and
dictionaries, and tables of pandas, which it rebuilds itself; whatever else a pickle names is refused before it is
looked up. Pickles of Python 2 are read with ``latin1``, as NumPy requires.
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
    """An object of pandas: keeps the arguments and the state that its pickle gives, and does nothing with them."""

    def __init__(self, *arguments: Any):
        self.arguments, self.state = arguments, None

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __reduce__(self) -> Any:
        raise TypeError("it is not pickled again")


# ---- what a pickle may call: each function stands for one of NumPy or Python, and checks its arguments


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


def _bytes(*arguments: Any) -> bytes:
    return bytes(arguments[0]) if arguments and isinstance(arguments[0], (bytes, list)) else b""


def _frombuffer(buffer: Any, dtype: Any, shape: Any, order: str = "C") -> np.ndarray:
    """Build an array from NumPy's own form in pickles of protocol 5."""
    return np.frombuffer(buffer, dtype).reshape(shape, order="F" if order == "F" else "C")


_NUMPY: dict[str, Callable[..., Any]] = {"_reconstruct": _reconstruct, "scalar": _scalar, "_frombuffer": _frombuffer}
_CALLABLE: dict[tuple[str, str], Any] = {
    **{
        (f"numpy.{core}.{module}", name): function
        for core in ("core", "_core")  # of NumPy 1 and 2
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

# Opcodes that build what is refused: instances by other ways than REDUCE and NEWOBJ, sets, and objects that lie
# outside the pickle: in a registry of extensions, in buffers or under a persistent name.
_REFUSED = (
    *(pickle.INST, pickle.OBJ, pickle.NEWOBJ_EX),
    *(pickle.EMPTY_SET, pickle.ADDITEMS, pickle.FROZENSET),
    *(pickle.EXT1, pickle.EXT2, pickle.EXT4, pickle.NEXT_BUFFER, pickle.PERSID),
)


class _Reader(pickle._Unpickler):  # the one in C can't be told what may be a key
    """Builds what is allowed, and refuses the rest.

    Opcodes that push constants, tuples and marks and use the memo are Python's. Those that call, set a state or fill a
    container check first what they are given; `dispatch` at the end of the class maps each of them to its method.
    """

    # attributes of Python's unpickler
    stack: list[Any]
    memo: dict[int, Any]
    append: Callable[[Any], None]
    pop_mark: Callable[[], list[Any]]

    # names: nothing is imported

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _CALLABLE:
            return _CALLABLE[module, name]
        if module.partition(".")[0] == "pandas":
            if name in _PANDAS:
                return Inert
            raise DataError(f"is a table with {module}.{name}, which is not known; save it as CSV or Parquet")
        raise DataError(f"names {module}.{name}, which could run code")

    def persistent_load(self, pid: Any) -> Any:
        raise DataError("refers to something outside of it")

    # calls: an opcode may find any value where it expects a function, such as a string or an array

    def load_call(self) -> None:
        arguments, function = self.stack.pop(), self.stack[-1]
        allowed = function is Inert or any(function is each for each in _CALLABLE.values())
        if not allowed or not isinstance(arguments, tuple):
            raise DataError("calls what it may not")
        self.stack[-1] = function(*arguments)

    # states: arrays and types are replaced by complete ones, as theirs can't be changed

    def load_build(self) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        if isinstance(target, _Array):
            self._replace(target, _fill(state))
        elif isinstance(target, np.dtype):
            self._replace(target, _set_byte_order(target, state))
        elif isinstance(target, Inert):
            target.state = state
        else:
            raise DataError("sets the state of what has none")

    def _replace(self, old: Any, new: Any) -> None:
        """Replace the value on the stack, and in the memo, where it is as a rule the last."""
        self.stack[-1] = new
        for key in reversed(self.memo):
            if self.memo[key] is old:
                self.memo[key] = new
                return

    # dictionaries and lists: what is filled must be one, and keys must be of a type in KEYS

    def load_dict(self) -> None:
        items = self.pop_mark()
        self.append({})
        self._set_items(items)

    def load_setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._set_items([key, value])

    def load_setitems(self) -> None:
        self._set_items(self.pop_mark())

    def _set_items(self, items: list[Any]) -> None:
        """Set keys to values, which alternate in `items`, in the dictionary on the stack."""
        target = self.stack[-1]
        for place in range(0, len(items), 2):
            key, value = items[place], items[place + 1]
            if not isinstance(target, dict) or not isinstance(key, KEYS):
                raise DataError("has a key that is no string or number")
            target[key] = value

    def load_append(self) -> None:
        self._extend([self.stack.pop()])

    def load_appends(self) -> None:
        self._extend(self.pop_mark())

    def _extend(self, items: list[Any]) -> None:
        if not isinstance(self.stack[-1], list):
            raise DataError("appends to what is no list")
        self.stack[-1].extend(items)

    def refuse(self) -> None:
        raise DataError("holds sets or objects, which are not read")

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
    """Build an array from the state that NumPy pickles: version, shape, type, order and content."""
    _, shape, dtype, fortran, content = state
    content = content.encode("latin1") if isinstance(content, str) else content
    if isinstance(content, list):  # of objects
        array = np.empty(len(content), dtype=object)
        array[:] = content
    else:
        if dtype.hasobject:
            raise DataError("holds objects where bytes were said to be")
        array = np.frombuffer(content, dtype)
    return array.reshape(shape, order="F" if fortran else "C")


def _set_byte_order(dtype: np.dtype[Any], state: Any) -> np.dtype[Any]:
    """Return a type with the byte order of its state."""
    order = state[1] if isinstance(state, tuple) and len(state) > 1 else "|"
    order = order.decode() if isinstance(order, bytes) else order
    return dtype.newbyteorder("<" if order == "<" else ">") if order in ("<", ">") else dtype


# what a damaged pickle makes Python's unpickler and NumPy raise
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
    """Return what a pickle holds.

    Args:
        content: the pickle.
        name: what messages call it.

    Returns:
        Arrays, numbers, strings, lists, tuples and dictionaries; `Inert` for what pandas pickles.

    Raises:
        DataError: the pickle holds anything else, or is damaged.
    """
    if len(content) > LARGEST:
        raise DataError(f"{name} has {len(content):,} bytes; pickles of at most {LARGEST:,} are read.")
    try:
        return _Reader(io.BytesIO(content), encoding="latin1").load()
    except DataError as error:
        raise DataError(f"{name} {error}; it is not read.") from error
    except _DAMAGE as error:
        raise DataError(f"{name} is no pickle that can be read ({str(error) or type(error).__name__}).") from error


def load_npy(content: bytes, name: object) -> np.ndarray:
    """Return the array of a ``.npy`` file; one of objects is read by `load_pickle`.

    Raises:
        DataError: the file is damaged, or not of this format.
    """
    file = io.BytesIO(content)
    try:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        _, _, dtype = read(file)
        if dtype.hasobject:
            value = load_pickle(content[file.tell() :], name)
            return value if isinstance(value, np.ndarray) else np.asarray(value)
        return np.asarray(np.load(io.BytesIO(content), allow_pickle=False))
    except DataError:
        raise
    except Exception as error:  # its header is parsed as Python, and a damaged one raises anything
        raise DataError(f"{name} is no .npy file that can be read ({error}).") from error

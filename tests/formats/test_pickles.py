"""Pickles and NumPy files: plain values are read, and nothing in them is run."""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sample_data import data_frame

from stackflower.errors import DataError
from stackflower.formats.pickled_tables import extract_columns
from stackflower.formats.pickles import load_npy, load_pickle


def test_pickled_tables_are_read_without_pandas() -> None:
    found = extract_columns(load_pickle(data_frame({"a": [1, "x"], "b": [[2], None]}), "x.pkl"), "x.pkl")
    assert found == {"index": [0, 1], "a": [1, "x"], "b": [[2], None]}
    with pytest.raises(DataError, match=r"x\.pkl can't be read as a pandas table"):
        extract_columns({"a": 1}, "x.pkl")


@pytest.mark.parametrize("start", [-(10**9), -(10**30)])
def test_pickled_tables_that_claim_too_much_are_refused(start: int) -> None:
    frame = load_pickle(data_frame({"a": [1, 2]}), "x.pkl")
    (block,) = frame.state["_mgr"].arguments[0]
    block.arguments = (block.arguments[0], slice(start, 2, 1), *block.arguments[2:])
    with pytest.raises(DataError, match=r"x\.pkl can't be read as a pandas table \("):
        extract_columns(frame, "x.pkl")


@pytest.mark.parametrize("protocol", range(6))
def test_pickles_of_plain_values_are_read_in_every_protocol(protocol: int) -> None:
    value = {
        "list": [1, 2.5, "ü", None, True, (1, (2, 3)), 10**30, b"\xff"],
        "float": np.arange(6, dtype=np.float32).reshape(2, 3),
        "fortran": np.asfortranarray(np.arange(6).reshape(2, 3)),
        "big": np.arange(3, dtype=">i4"),
        "text": np.array(["ab", "c"]),
        "objects": np.array(["u", [1]], dtype=object),
        7: np.float64(3.5),
    }
    found = load_pickle(pickle.dumps(value, protocol), "x")
    assert list(found) == list(value) and found["list"] == value["list"] and found[7] == 3.5
    for name in ("float", "fortran", "big", "text"):
        assert np.array_equal(found[name], value[name]) and found[name].dtype.newbyteorder("=") == value[
            name
        ].dtype.newbyteorder("=")
    assert found["objects"].tolist() == ["u", [1]]


def test_pickles_of_python_2_are_read() -> None:
    # pickle.dumps(numpy.array([[1., 2.]], dtype='float32'), 2) in Python 2.7: the content is a str
    old = (
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\nq\x01cnumpy\nndarray\nq\x02K\x00\x85U\x01b\x87Rq\x03(K\x01K\x01K\x02\x86cnumpy\ndtype\nq\x04U\x02f4K\x00K\x01\x87R"
        b"q\x05(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89U\x08\x00\x00\x80?\x00\x00\x00@tb."
    )
    assert np.array_equal(load_pickle(old, "x"), np.array([[1.0, 2.0]], np.float32))


def test_npy_files_are_read_and_damaged_ones_refused(tmp_path: Path) -> None:
    for array in (np.arange(4.0), np.array([["1", "a"], ["2", "b"]], dtype=object)):
        buffer = io.BytesIO()
        np.save(buffer, array, allow_pickle=True)
        assert load_npy(buffer.getvalue(), "x").tolist() == array.tolist()
    with pytest.raises(DataError, match=r"can't be read as a \.npy file"):
        load_npy(b"\x93NUMPY\x01\x00v\x00{'descr': '<f8', 'fortran_order': False, 'shape': (99999999999,), }", "x")


class Calls:
    """Pickled, a call of anything."""

    def __init__(self, function: Any, *arguments: Any):
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


def tuples_in_tuples() -> bytes:
    """A dictionary whose key takes 2^60 steps to hash."""
    return b"\x80\x02}K\x01" + b"2\x86" * 60 + b"K\x01s."


PICKLES: dict[str, bytes] = {
    "a command": pickle.dumps(Calls(os.system, "touch owned")),
    "evaluation": pickle.dumps(Calls(eval, "open('owned', 'w')")),
    "an import": b"cposix\nsystem\n(S'touch owned'\ntR.",
    "a command, in Python 2": b"(S'touch owned'\niposix\nsystem\n.",
    "a class of ours": pickle.dumps(Path("owned")),
    "numpy's loader": b"cnumpy\nload\n(S'owned'\ntR.",
    "numpy's testing": b'cnumpy.testing._private.utils\nrunstring\n(S\'open("owned", "w")\'\n}tR.',
    "an attribute of numpy": b"cnumpy.core.multiarray\n_reconstruct.__globals__\n.",
    "a dotted name": b"\x80\x04\x8c\x05numpy\x8c\x10ndarray.__init__\x93.",
    "a set": pickle.dumps({1, 2}),
    "a key that takes for ever": tuples_in_tuples(),
    "an array that claims a terabyte": b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n(K\x00tU\x01btR"
    b"(K\x01(\x8a\x06\x00\x00\x00\x00\x00\x01tcnumpy\ndtype\n(U\x02f8K\x00K\x01tR"
    b"(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89U\x08\x00\x00\x00\x00\x00\x00\x00\x00tb.",
    "a string that claims a gigabyte": b"\x80\x04\x8d" + (2**30).to_bytes(8, "little") + b"abc.",
    "a table of a billion rows": b"\x80\x02cpandas.core.indexes.base\n_new_Index\n(N}(X\x05\x00\x00\x00startK\x00uR.",
    "nothing": b"",
    "half of one": pickle.dumps(list(range(100)))[:50],
    "a state of nothing": b"\x80\x02K\x01K\x02b.",
    "a memory of nothing": b"\x80\x02h\x05.",
    "a list as a key": b"\x80\x02}]K\x01s.",
    "lists in lists": b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b".",
    "something outside": b"\x80\x02Pname\n.",
    "a buffer outside": b"\x80\x05\x97.",
}


@pytest.mark.parametrize("name", PICKLES)
def test_pickles_that_would_do_harm_are_refused_and_run_nothing(name: str, stackflower, tmp_path: Path) -> None:
    root = tmp_path / "data"
    (root / "train").mkdir(parents=True)
    (root / "train" / "filenames.pickle").write_bytes(PICKLES[name])
    began = time.monotonic()
    said = stackflower("data", "check", root, code=2).output
    assert "filenames.pickle" in said and len(said) < 2000 and time.monotonic() - began < 5
    assert not (tmp_path / "owned").exists()


@settings(max_examples=400, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_pickles_with_any_byte_changed_are_read_or_refused_in_a_sentence(data: st.DataObject) -> None:
    value = {"a": [1, "x", (2, 3.5)], "b": torch.arange(6).reshape(2, 3).numpy()}
    content = bytearray(pickle.dumps(value, data.draw(st.integers(0, 5))))
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(DataError):
        load_pickle(bytes(content), "x")

"""Torch7's files."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from sample_data import t7

from stackflower.errors import DataError
from stackflower.formats.t7 import load_t7


def test_torch7_files_are_read_and_damaged_ones_refused() -> None:
    array = np.arange(12, dtype=np.float32).reshape(3, 4)
    assert np.array_equal(load_t7(t7(array), "x"), array)
    found = load_t7(t7({"txt": array, 1: "one", "n": 2.5}), "x")
    assert np.array_equal(found["txt"], array) and found[1] == "one" and found["n"] == 2.5
    for length in range(len(t7(array))):
        with pytest.raises(DataError, match="can't be read as a Torch7 file"):
            load_t7(t7(array)[:length], "x")
    with pytest.raises(DataError, match="such as a function"):
        load_t7(struct.pack("<ii", 8, 1), "x")
    huge = t7(array).replace(struct.pack("<qq", 3, 4), struct.pack("<qq", 2**40, 4), 1)
    with pytest.raises(DataError, match="larger than its storage"):
        load_t7(huge, "x")

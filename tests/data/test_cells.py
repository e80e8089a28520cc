"""Cells of tables: captions in the forms in which programs write them, missing values, numbers, and messages."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stackflower.data.rows.cells import (
    MAX_SHOWN,
    is_missing,
    parse_literal,
    parse_texts,
    parse_whole_number,
    show,
)


@pytest.mark.parametrize(
    ("cell", "texts"),
    [
        ("a red flower", ["a red flower"]),
        ('["a", "b"]', ["a", "b"]),  # JSON
        ("['a', 'b']", ["a", "b"]),  # Python
        ("['a', \"it's\"]", ["a", "it's"]),
        ("['a', 'b',]", ["a", "b"]),
        (r"['it\'s \"big\"']", ['it\'s "big"']),
        ("['a' 'b']", ["a", "b"]),  # NumPy
        ("[\"it's\" 'b'\n 'c']", ["it's", "b", "c"]),
        ("['a, b' 'c] d']", ["a, b", "c] d"]),
        ("['a', nan]", ["a"]),  # pandas
        ("['a', None]", ["a"]),
        ("['nan']", [""]),
        (["a", None], ["a"]),
        ("[{'raw': 'a'}, {'raw': 'b', 'tokens': ['b']}]", ["a", "b"]),
        ('[{"caption": "a"}, "b"]', ["a", "b"]),
        ({"text": "a"}, ["a"]),
        ('{"sentence": "a"}', ["a"]),
        ([{"raw": "a", "sentid": 3}], ["a"]),
        (("a", "b"), ["a", "b"]),
        (3, ["3"]),
        (2.5, ["2.5"]),
        # captions that only look like lists or objects
        ("[a red flower]", ["[a red flower]"]),
        ("[red] a flower [blue]", ["[red] a flower [blue]"]),
        ("['a']['b']", ["['a']['b']"]),
        ("['a'b']", ["['a'b']"]),
        ("[it's a flower]", ["[it's a flower]"]),
        ("{red}", ["{red}"]),
        ("{'a', 'b'}", ["a", "b"]),
        ("[__import__('os')]", ["[__import__('os')]"]),
        ("('a', 'b')", ["a", "b"]),
        ("array(['a', 'b'], dtype=object)", ["a", "b"]),
        # nothing
        (None, []),
        (float("nan"), []),
        ("", []),
        (" \t", []),
        *((word, []) for word in ("nan", "NaN", "null", "NULL", "None", "N/A", "n/a", "<NA>", " nan ", "\\N")),
        ([], []),
        ("[]", []),
        # of no type that a caption has
        (True, None),
        (b"bytes", None),
        (["a", ["b"]], None),
        (["a", True], None),
        ({"a": 1}, None),
        ([{"tokens": ["a"]}], None),
    ],
)
def test_captions_are_read_in_all_forms_that_programs_write(cell: Any, texts: list[str] | None) -> None:
    assert parse_texts(cell) == texts


CAPTIONS = st.lists(
    st.text(st.characters(codec="utf-8", exclude_characters="\n\r"), min_size=1, max_size=12).filter(
        lambda text: not is_missing(text)
    ),
    min_size=1,
    max_size=4,
)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(CAPTIONS)
def test_lists_are_read_as_python_numpy_and_pandas_print_them(captions: list[str]) -> None:
    assert parse_texts(str(captions)) == captions
    assert parse_texts(str(np.array(captions, dtype=object))) == captions
    assert parse_texts(str([{"raw": caption} for caption in captions])) == captions


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.one_of(st.text(max_size=30), st.text("[]{}'\", \\nab1:-\n", max_size=30).map(lambda text: f"[{text}]")))
def test_no_text_is_lost_or_fails(cell: str) -> None:
    texts = parse_texts(cell)
    if isinstance(parse_literal(cell), str) and not is_missing(cell):
        assert texts == [cell]


@pytest.mark.parametrize(
    "cell",
    [
        "['a'" + " " * 200_000 + "x]",
        "['a'" + " '" * 200_000 + "x]",
        "['a'" + "," * 200_000 + "x]",
        "[" * 200_000 + "]" * 200_000,
        "[" + "-" * 200_000 + "1]",
        "[" + "'a' " * 2_000 + "x]",
        "{" * 1_000 + "}" * 1_000,
        "[" + "9" * 5_000 + "]",
    ],
    ids=range(8),
)
def test_cells_that_would_take_for_ever_are_captions(cell: str) -> None:
    start = time.monotonic()
    assert parse_texts(cell) in ([cell], None)
    assert time.monotonic() - start < 20


@pytest.mark.parametrize(
    ("cell", "number"),
    [
        (3, 3),
        ("3", 3),
        (" 3 ", 3),
        ("3.0", 3),
        (3.0, 3),
        ("+3", 3),
        ("-3", -3),
        ("٣", 3),
        (0, 0),
        (10**30, 10**30),
        *((cell, None) for cell in (3.5, "3.5", "--5", "5-", "1e3", "rose", "", None, True, "0x3", "3_000", "9" * 20)),
        (float("nan"), None),
        (float("inf"), None),
        (1e300, None),
        ([3], None),
    ],
)
def test_whole_numbers(cell: object, number: int | None) -> None:
    parsed = parse_whole_number(cell)
    assert parsed == number and type(parsed) is type(number)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    st.recursive(
        st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=400), st.binary(max_size=400)),
        lambda items: st.one_of(st.lists(items), st.dictionaries(st.text(max_size=5), items)),
        max_leaves=30,
    )
)
def test_messages_show_at_most_200_characters_of_a_value_and_never_bytes(value: Any) -> None:
    shown = show(value)
    assert len(shown) <= MAX_SHOWN + 3, "and brackets"
    assert not isinstance(value, bytes) or shown == f"{len(value):,} bytes"


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (b"\xff\xd8" * 5_000, "10,000 bytes"),
        ({"bytes": b"\xff\xd8", "path": "a.jpg"}, "{'bytes': 2 bytes, 'path': 'a.jpg'}"),
        ([b"ab"], "[2 bytes]"),
        (10**20, "a number of more than 20 digits"),
        (-(10**4000), "a number of more than 20 digits"),
        (12, "12"),
        ("rose", "'rose'"),
        ("a" * 300, f"'{'a' * 199}…"),
    ],
)
def test_values_are_shown_in_messages(value: Any, shown: str) -> None:
    assert show(value) == shown

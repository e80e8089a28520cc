"""Sequences of JSON values in files."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stackflower.data import json_lines
from stackflower.data.json_lines import Column, JsonLines, write_json_lines
from stackflower.errors import DataError

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(), lambda of: st.lists(of) | st.dictionaries(st.text(), of)
)


@given(st.lists(VALUES))
def test_a_temporary_file_behaves_as_a_list(values: list[Any]) -> None:
    lines = JsonLines()
    for number, value in enumerate(values):
        lines.append(value)
        assert lines[number] == lines[-1] == value
    assert len(lines) == len(values) and list(lines) == values == lines
    assert lines[::-2] == values[::-2] and lines[1:3] == values[1:3]
    assert lines != [*values, 0]
    with pytest.raises(IndexError):
        lines[len(values)]


@pytest.mark.parametrize("at_once", (1, 50, 1 << 20))
def test_a_file_of_rows_is_read_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: int) -> None:
    monkeypatch.setattr(json_lines, "BLOCK_SIZE", at_once)
    values = [{"text": ["a\nb\u2028ü\ud800" * (number % 7)], "number": number} for number in range(100)]
    write_json_lines(tmp_path / "a.jsonl", values)
    lines = JsonLines(tmp_path / "a.jsonl")
    assert list(lines) == values == lines and lines[57] == values[57]
    assert Column(lines, "number") == list(range(100)) and Column(lines, "text")[-1] == values[-1]["text"]


def test_half_a_line_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"a": 1}\n{"a": ')
    with pytest.raises(ValueError, match="ends in the middle of a line"):
        JsonLines(tmp_path / "a.jsonl")


def test_threads_can_read_and_write_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_lines, "MAX_IN_MEMORY", 100)
    lines = JsonLines()
    lines.extend(range(1000))
    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(lambda number: lines[number] == number, list(range(1000)) * 10))


def test_white_space_within_a_line_does_not_end_it(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"a":\r 1}\r\n[2]\n')
    lines = JsonLines(tmp_path / "a.jsonl")
    assert list(lines) == [lines[0], lines[1]] == [{"a": 1}, [2]]


def test_no_room_for_a_temporary_file_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = JsonLines()

    def full(content: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(lines._file, "write", full)
    with pytest.raises(DataError, match=r"No space left on device.*variable TMPDIR"):
        lines.append(1)

"""Containers of rows: delimited text and JSON, also damaged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from stackflower.data.rows.containers import read_json
from stackflower.data.rows.delimited import read_delimited
from stackflower.errors import DataError


def read(text: str, name: str = "x.csv", **options: Any) -> list[tuple[Any, ...]]:
    return [tuple(row) for row in read_delimited(text, Path(name), **options)]


def values(text: str, name: str = "x.csv", **options: Any) -> list[tuple[Any, ...]]:
    return [tuple(cells.values()) for _, cells, problem in read(text, name, **options) if problem is None]


def test_a_quotation_mark_in_a_tsv_costs_no_other_row() -> None:
    rows = ['1.jpg\t"open', '2.jpg\ta 5" flower', '3.jpg\t"big" one', "4.jpg\tfine", '5.jpg\tends"']
    text = "image\tcaption\n" + "\n".join(rows)
    assert values(text, "x.tsv") == [tuple(row.split("\t")) for row in rows]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("row", ['2.jpg,"open', '2.jpg,"open, with "some" quotes', '2.jpg,"a" b'])
def test_an_unclosed_quotation_mark_in_a_csv_costs_one_row(row: str, end: str) -> None:
    rows = read(end.join(["image,caption", "1.jpg,a", row, "3.jpg,b", '4.jpg,"c, d"', "5.jpg,e"]))
    assert [(number, problem is None) for number, _, problem in rows] == [
        (2, True),
        (3, False),
        (4, True),
        (5, True),
        (6, True),
    ]
    assert "quotation mark that is not closed" in str(rows[1][2])
    assert rows[3][1] == {"image": "4.jpg", "caption": "c, d"}


def test_cells_may_have_line_breaks_and_quotation_marks() -> None:
    text = 'image,caption\n1.jpg,"a ""blue"" flower, with\n\na line break"\n2.jpg,a 5" flower\n'
    assert read(text) == [
        (2, {"image": "1.jpg", "caption": 'a "blue" flower, with\n\na line break'}, None),
        (5, {"image": "2.jpg", "caption": 'a 5" flower'}, None),
    ]


def test_a_row_with_too_many_cells_is_refused_and_one_with_too_few_lacks_them() -> None:
    rows = read("image,caption\n1.jpg,a,b\n2.jpg\n3.jpg,c\n")
    assert rows[0][2] == "has 3 cells in 2 columns; quote cells that contain ','"
    assert [row[1] for row in rows] == [{}, {"image": "2.jpg"}, {"image": "3.jpg", "caption": "c"}]


@pytest.mark.parametrize("delimiter", ",;\t")
@pytest.mark.parametrize("names", [("image", "caption", "", ""), ("image", "caption", "Unnamed: 2", "Unnamed: 3")])
def test_text_in_a_column_without_a_name_is_refused(names: tuple[str, ...], delimiter: str) -> None:
    rows = [("1.jpg", "a", " with petals", ""), ("2.jpg", "b", "", " "), ("3.jpg", "c"), ("4.jpg", "d", "", "e")]
    text = "\n".join(delimiter.join(row) for row in (names, *rows))
    advice = f"quote cells that contain {delimiter!r}, or name the column"
    assert read(text, delimiter=delimiter) == [
        (2, {}, f"has text in a column without a name, ' with petals'; {advice}"),
        (3, {"image": "2.jpg", "caption": "b"}, None),
        (4, {"image": "3.jpg", "caption": "c"}, None),
        (5, {}, f"has text in a column without a name, 'e'; {advice}"),
    ]


@pytest.mark.parametrize(
    ("text", "cells"),
    [
        ("image,caption,\n1.jpg,a,\n", {"image": "1.jpg", "caption": "a"}),  # a comma at the end of each line
        (",image,\n0,1.jpg,\n", {"": "0", "image": "1.jpg"}),  # the index of pandas
        ("Unnamed: 0,image\n0,1.jpg\n", {"Unnamed: 0": "0", "image": "1.jpg"}),
        ("Unnamed: 0.1,Unnamed: 0,image\n0,0,1.jpg\n", {"Unnamed: 0.1": "0", "Unnamed: 0": "0", "image": "1.jpg"}),
    ],
)
def test_columns_without_a_name_may_be_empty_or_an_index(text: str, cells: dict[str, str]) -> None:
    assert read(text) == [(2, cells, None)]


@pytest.mark.parametrize("delimiter", ",;|\t")
@pytest.mark.parametrize("note", [True, False])
def test_the_delimiter_is_detected_or_given_in_the_line_of_excel(delimiter: str, note: bool) -> None:
    text = delimiter.join(("image", "caption", "class")) + "\n" + delimiter.join(("1.jpg", "a. b: c", "rose"))
    assert values(f"sep={delimiter}\n" * note + text) == [("1.jpg", "a. b: c", "rose")]


@pytest.mark.parametrize(
    "line", ["1.jpg,a red flower", "a/1.PNG#0,a red flower", "https://example.com/1.jpg?size=3,a red flower"]
)
def test_a_first_line_that_names_an_image_is_a_row(line: str) -> None:
    assert read(line) == [(1, dict(zip(("1", "2"), line.split(","), strict=True)), None)]
    assert read(line, header=True) == []


def test_long_cells_are_read() -> None:
    text = "a " * 200_000
    assert values(f'image,caption\n1.jpg,"{text}"\n') == [("1.jpg", text)]


def test_two_columns_of_one_name_are_refused() -> None:
    with pytest.raises(DataError, match="two columns 'a'; rename one"):
        read("a,b,a\n1,2,3\n")


@pytest.mark.parametrize("text", ["", "\n\n", "image,caption\n", "sep=;\n", "sep=;\nimage;caption\n"])
def test_a_table_without_rows_has_none(text: str) -> None:
    assert read(text) == []


ROWS = [{"image": "1.jpg", "text": "a"}, {"image": "2.jpg", "text": "b"}]


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ('{"image": "1.jpg", "text": "a"}\n\n{"image": "2.jpg", "text": "b"}', "x.jsonl"),
        ('{"image": "1.jpg", "text": "a"}\n{"image": "2.jpg", "text": "b"}', "x.json"),
        ('[{"image": "1.jpg", "text": "a"}, {"image": "2.jpg", "text": "b"}]', "x.json"),
        ('[{"image": "1.jpg", "text": "a"},\n {"image": "2.jpg", "text": "b"}]', "x.jsonl"),
        ('{"info": {}, "rows": [{"image": "1.jpg", "text": "a"}, {"image": "2.jpg", "text": "b"}]}', "x.json"),
        ('{"1.jpg": "a", "2.jpg": "b"}', "x.json"),
        ('{"1.jpg": {"text": "a"}, "2.jpg": {"text": "b"}}', "x.json"),
        ('{"image": {"0": "1.jpg", "1": "2.jpg"}, "text": {"0": "a", "1": "b"}}', "x.json"),
    ],
)
def test_json_holds_rows_in_many_forms(text: str, name: str) -> None:
    assert [row.values for row in read_json(text, Path(name))] == ROWS


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 100_000, "nested too deeply"),
        ("{", "is not JSON"),
        ("3", "contains no list of rows"),
        ("{}", "contains no list of rows"),
        ('{"a": 1}', "contains no list of rows"),
    ],
)
def test_json_without_rows_is_refused(text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        list(read_json(text, Path("x.json")))


def test_a_damaged_line_of_json_costs_one_row() -> None:
    rows = list(read_json('{"a": 1}\n{"a":\n[1]\n{"a": 2}\n', Path("x.jsonl")))
    assert [(row.place, row.values) for row in rows] == [(1, {"a": 1}), (2, {}), (3, {}), (4, {"a": 2})]
    assert [row.problem for row in rows] == [None, "is not JSON (Expecting value)", "is not a JSON object", None]


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c"])
def test_only_line_feeds_and_carriage_returns_end_a_row(separator: str) -> None:
    caption = f"a{separator}b"
    assert read(f"image,text\n1.jpg,{caption}\r2.jpg,c\r\n") == [
        (2, {"image": "1.jpg", "text": caption}, None),
        (3, {"image": "2.jpg", "text": "c"}, None),
    ]

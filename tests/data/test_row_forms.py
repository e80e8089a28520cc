"""One data set in the forms in which metadata are written: the rows are the same in each, and counts add up."""

from __future__ import annotations

import csv
import io
import json
import tempfile
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sample_data import jpeg

from stackflower.data.opening import open_source
from stackflower.data.rows.cells import is_missing

JPEG = jpeg()
EXAMPLES = settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
WORDS = st.lists(
    st.text(st.sampled_from([*"abcXYZ05,;|'.!-%#&", "é", "ß", "花", "ب", "🌺", "\u2028", '"']), min_size=1, max_size=6),
    min_size=2,
    max_size=4,
)
CAPTION = WORDS.map(" ".join).map(lambda text: " ".join(f"a{text}".split())).filter(lambda text: not is_missing(text))
STEMS = ["rose", "Blüte", "a b", "花", "x.y", "100%25", "it's"]


@dataclass(frozen=True)
class Item:
    """An image with its captions and its class."""

    file: str
    captions: list[str]
    label: int


@st.composite
def data_sets(draw: st.DrawFn) -> list[Item]:
    """Images whose names differ in more than case, folder and extension."""
    count = draw(st.integers(1, 5))
    items = []
    for number in range(count):
        folder, stem = draw(st.sampled_from(["", "deep/", "a/b c/"])), draw(st.sampled_from(STEMS))
        captions = draw(st.lists(CAPTION, min_size=1, max_size=3, unique=True))
        items.append(Item(f"{folder}{stem} {number}.jpg", captions, draw(st.integers(0, 3))))
    return items


NAMES: dict[str, Callable[[str], str]] = {
    "plain": str,
    "dot": lambda name: f"./{name}",
    "backslash": lambda name: name.replace("/", "\\"),
    "absolute": lambda name: f"/home/somebody/data/{name}",
    "Windows": lambda name: "D:\\data\\" + name.replace("/", "\\"),
    "quoted": quote,
    "URL": lambda name: f"https://example.com/data/{quote(name)}?size=large",
    "upper case": str.upper,
    "NFD": lambda name: unicodedata.normalize("NFD", name),
    "id": lambda name: name.removesuffix(".jpg"),
    "base name": lambda name: name.rpartition("/")[2],
    "numbered": lambda name: f"{name}#0",
}
LISTS: dict[str, Callable[[list[str]], str]] = {
    "JSON": json.dumps,
    "JSON in Unicode": lambda texts: json.dumps(texts, ensure_ascii=False),
    "Python": str,
    "NumPy": lambda texts: str(np.array(texts, dtype=object)).replace("\n", ""),
    "objects": lambda texts: json.dumps([{"raw": text} for text in texts]),
    "Python objects": lambda texts: str([{"caption": text, "id": 1} for text in texts]),
}
NATIVE: dict[str, Callable[[list[str]], Any]] = {
    "list": list,
    "objects": lambda texts: [{"raw": text, "tokens": text.split()} for text in texts],
}
IMAGE = st.sampled_from(["image", "file_name", "File Name", "FILEPATH", "image-path", "img", "Image_ID", "path"])
TEXT = st.sampled_from(["caption", "text", "Captions", "TITLE", "description", "Caption Text", "prompt", "sentences"])
LABEL = st.sampled_from(["label", "class", "Category", "species", None])
Row = dict[str, Any]


@st.composite
def tables(draw: st.DrawFn, items: list[Item], native: bool) -> tuple[list[Row], bool]:
    """Rows of a data set with columns, names and captions in some form, and whether they name images exactly."""
    image, text, label = draw(IMAGE), draw(TEXT), draw(LABEL)
    form = draw(st.sampled_from(list(NAMES)))
    forms: dict[str, Callable[[list[str]], Any]] = {**LISTS, **(NATIVE if native else {})}
    write = draw(st.sampled_from([None, *forms]))
    labels = draw(st.sampled_from([int, str, float])) if native else str
    rows = []
    for item in items:
        for cell in item.captions if write is None else [forms[write](item.captions)]:
            row = {image: NAMES[form](item.file), text: cell, **({label: labels(item.label)} if label else {})}
            rows.append(row if form == "id" else {"": len(rows), **row, "width": 24})
    return rows, label is not None


def write_delimited(draw: st.DrawFn, rows: list[Row]) -> tuple[str, bytes, dict[str, str]]:
    """Write a table as delimited text; return the name of the file, its content, and the options that it needs."""
    name = draw(st.sampled_from(["captions.csv", "list.tsv", "metadata.csv"]))
    delimiter = "\t" if name.endswith(".tsv") else draw(st.sampled_from(",;|\t"))
    has_header = draw(st.booleans()) or not any(".jpg" in str(cell).lower() for cell in rows[0].values())
    columns = [column for column in rows[0] if column] if draw(st.booleans()) else list(rows[0])
    quoting = draw(st.sampled_from([csv.QUOTE_ALL, csv.QUOTE_MINIMAL]))
    ending = draw(st.sampled_from(["\n", "\r\n", "\r"]))
    out = io.StringIO()
    writer = csv.writer(out, delimiter=delimiter, quoting=quoting, lineterminator=ending)
    if has_header:
        writer.writerow(columns)
    writer.writerows([row[column] for column in columns] for row in rows)
    text, options = out.getvalue(), {}
    if has_header and len(columns) > 1 and draw(st.booleans()):
        text = f"sep={delimiter}{ending}{text}"
    elif not has_header:
        options = {"delimiter": delimiter}  # captions in the first line may hold more of another character
    encoding = draw(st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]))
    return name, text.encode(encoding), options


def write_json(draw: st.DrawFn, items: list[Item], rows: list[Row]) -> tuple[str, bytes, bool]:
    """Write a table as JSON; return the name of the file, its content, and whether it may hold labels."""
    form = draw(
        st.sampled_from(["lines", "array", "array in a .jsonl", "object of a list", "object by image", "pandas"])
    )
    is_ascii, indent = draw(st.booleans()), draw(st.sampled_from([None, 2]))
    if form == "lines":
        content, name = "\n".join(json.dumps(row, ensure_ascii=is_ascii) for row in rows), "metadata.jsonl"
    else:
        value: Any = rows
        if form == "object of a list":
            value = {"info": {"year": 2020}, "images": rows}
        elif form == "object by image":
            value = {item.file: item.captions for item in items}
        elif form == "pandas":
            value = {column: {str(number): row[column] for number, row in enumerate(rows)} for column in rows[0]}
        content = json.dumps(value, ensure_ascii=is_ascii, indent=indent)
        name = "metadata.jsonl" if form == "array in a .jsonl" else "captions.json"
    encoded = content.encode(draw(st.sampled_from(["utf-8", "utf-8-sig", "utf-16"])))
    return name, encoded, form != "object by image"


def check_rows(items: list[Item], name: str, content: bytes, options: dict[str, str], labelled: bool) -> None:
    """Check that a file of metadata beside images gives the rows, and that each row and image is accounted for."""
    with tempfile.TemporaryDirectory() as folder:
        for file in [*(item.file for item in items), "unused.jpg"]:
            (Path(folder) / file).parent.mkdir(parents=True, exist_ok=True)
            (Path(folder) / file).write_bytes(JPEG)
        (Path(folder) / name).write_bytes(content)
        layout = "folder" if name.startswith("metadata.") and not options else "table"
        if layout == "table":
            options = {**options, "table": name}
        source = open_source(folder, options, layout)
        listing = source.get_listing("train")  # type: ignore[attr-defined]
        rows = {row["file_name"]: row["text"] for row in listing.rows}
        assert listing.problems == []
        assert rows == {item.file: item.captions for item in items}
        found = source.rows("train")
        assert found.files is not None
        labels = {item.file: item.label for item in items}
        assert found.labels == ([labels[file] for file in found.files] if labelled else None)
        assert source.splits() == ["train"]
        notes = [note for note in listing.notes if "other names" not in note and "are read from the column" not in note]
        (note,) = notes
        assert note.startswith("1 images in") and "unused.jpg" in note


@EXAMPLES
@given(st.data(), data_sets())
def test_delimited_text_of_any_dialect_gives_the_same_rows(data: st.DataObject, items: list[Item]) -> None:
    rows, labelled = data.draw(tables(items, native=False))
    name, content, options = data.draw(st.composite(write_delimited)(rows))
    has_header = not options
    check_rows(items, name, content, options, labelled and has_header)


@EXAMPLES
@given(st.data(), data_sets())
def test_json_of_any_form_gives_the_same_rows(data: st.DataObject, items: list[Item]) -> None:
    rows, labelled = data.draw(tables(items, native=True))
    name, content, has_labels = data.draw(st.composite(write_json)(items, rows))
    check_rows(items, name, content, {}, labelled and has_labels)


@pytest.mark.extras
@EXAMPLES
@given(st.data(), data_sets())
def test_parquet_and_arrow_files_give_the_same_rows(data: st.DataObject, items: list[Item]) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import feather, parquet

    rows, labelled = data.draw(tables(items, native=True))
    table = pyarrow.Table.from_pylist(rows)
    buffer = pyarrow.BufferOutputStream()
    name = data.draw(st.sampled_from(["metadata.parquet", "list.parquet", "list.feather", "list.arrow"]))
    if name.endswith(".parquet"):
        parquet.write_table(table, buffer, row_group_size=data.draw(st.integers(1, 4)))
    elif name.endswith(".feather"):
        feather.write_feather(table, buffer)
    else:
        with pyarrow.ipc.new_stream(buffer, table.schema) as writer:
            writer.write_table(table, 2)
    check_rows(items, name, buffer.getvalue().to_pybytes(), {}, labelled)

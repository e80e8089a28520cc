"""Tables of captions: CSV, TSV and Parquet files of many projects."""

from __future__ import annotations

import csv
from datetime import date
from decimal import Decimal
from pathlib import Path

import pytest
from conftest import TINY_NETWORKS, settings
from sample_data import write_images

from stackflower.data.opening import open_source, source_part
from stackflower.data.prepared import prepare
from stackflower.errors import DataError


@pytest.mark.parametrize(
    ("file", "columns", "delimiter"),
    [
        ("captions.csv", ("filepath", "title"), ","),
        ("results.csv", ("image_name", "comment"), "|"),
        ("list.tsv", ("image", "caption"), "\t"),
        ("eu.csv", ("Datei", "caption"), ";"),
        ("captions.txt", ("image", "caption"), ","),
    ],
)
def test_tables_of_captions_are_recognised_by_their_columns(
    tmp_path: Path, stackflower, file: str, columns: tuple[str, str], delimiter: str
) -> None:
    root = write_images(tmp_path / "data", "images/1.jpg", "images/2.jpg", "images/3.jpg")
    with (root / file).open("w", newline="", encoding="utf-8-sig") as out:
        rows = [
            (*columns, "class"),
            ("1.jpg", "a, red; flower", "rose"),
            ("1.jpg", 'a "big" one', "rose"),
            ("images/2.jpg", "blue", "iris"),
        ]
        csv.writer(out, delimiter=delimiter).writerows(rows)
    assert source_part(str(root))["name"] == source_part(str(root / file))["name"] == "table"
    for value in (root, root / file):
        found = open_source(str(value)).rows("train")
        assert found.captions == [["a, red; flower", 'a "big" one'], ["blue"]]
        assert found.labels == [0, 1] and found.class_names == {0: "rose", 1: "iris"}
    assert "1 images" in stackflower("data", "check", root).output
    if columns == ("filepath", "title"):
        stackflower("train", "--data", root, "--images", 8, "--out", "run", *TINY_NETWORKS)


def test_a_table_that_excel_saved_as_unicode_text_is_read(tmp_path: Path) -> None:
    root = write_images(tmp_path / "data", "1.jpg", "2.jpg")
    (root / "list.tsv").write_text("image\tcaption\r\n1.jpg\tröd blomma\r\n2.jpg\t花\r\n", encoding="utf-16")
    assert open_source(str(root)).rows("train").captions == [["röd blomma"], ["花"]]


def test_columns_can_be_named_where_they_are_not_recognised(tmp_path: Path, stackflower) -> None:
    root = write_images(tmp_path / "data", "1.jpg", "2.jpg")
    (root / "x.csv").write_text("a,b,c\n1.jpg,a red flower,7\n2.jpg,a blue one,8\n")
    said = stackflower("data", "check", root).output
    assert "are read from the column 'b'; --set data.text_column=NAME chooses another." in said
    assert (
        "No problems"
        in stackflower("data", "check", root, *settings("data.text_column=b", "data.label_column=c")).output
    )
    assert open_source(str(root), {"text_column": "b", "label_column": "c"}).rows("train").labels == [7, 8]
    said = stackflower("data", "check", root, *settings("data.text_column=d"), code=2).output
    assert "has no column 'd'" in said
    (root / "x.csv").write_text("a,b,c\n1.jpg,a red flower,in the sun\n2.jpg,a blue one,at night\n")
    said = stackflower("data", "check", root, code=2).output
    assert "holds the texts (columns: a, b, c)" in said and "--set data.text_column=NAME" in said
    (root / "x.csv").write_text("image,text\n1.jpg,a,b\n2.jpg,ok\n")
    assert "line 2 has 3 cells in 2 columns" in stackflower("data", "check", root, code=2).output
    assert (
        "Unknown format 'tabel'. Did you mean 'table'?"
        in stackflower("data", "check", root, "--format", "tabel", code=2).output
    )


def test_classes_have_the_same_numbers_in_all_splits(tmp_path: Path) -> None:
    for split, rows in (("train", "1.jpg,a,rose\n2.jpg,b,iris\n"), ("test", "3.jpg,c,iris\n4.jpg,d,lily\n")):
        write_images(tmp_path / split, *(line.partition(",")[0] for line in rows.split()))
        (tmp_path / split / "list.csv").write_text(f"image,text,class\n{rows}")
    assert open_source(str(tmp_path)).rows("test").class_names == {1: "iris", 2: "lily"}


@pytest.mark.extras
def test_values_of_a_parquet_file_that_json_lacks_become_text(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    from pyarrow import table

    root = write_images(tmp_path, "1.jpg")
    row = {"file_name": "1.jpg", "text": "a", "label": 0, "class_name": Decimal("1.5")}
    columns = {name: [value] for name, value in (row | {"attributes": {"seen": date(2020, 1, 2)}}).items()}
    parquet.write_table(table(columns), root / "metadata.parquet")
    rows = prepare(open_source(str(root)), "train", 16).rows
    assert rows.class_names == {0: "1.5"} and rows.attributes == {"seen": ["2020-01-02"]}


@pytest.mark.extras
def test_parquet_files_are_read_as_metadata_and_as_tables(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    from pyarrow import table

    root = write_images(tmp_path / "a", "1.jpg", "2.jpg")
    parquet.write_table(
        table({"file_name": ["1.jpg", "2.jpg"], "text": [["a", "b"], ["c"]], "label": [1, 2]}),
        root / "metadata.parquet",
    )
    assert source_part(str(root))["name"] == "folder"
    assert open_source(str(root)).rows("train").captions == [["a", "b"], ["c"]] and open_source(str(root)).rows(
        "train"
    ).labels == [1, 2]
    other = write_images(tmp_path / "b", "1.jpg", "2.jpg")
    parquet.write_table(table({"path": ["1.jpg", "2.jpg"], "caption": ["a", "c"]}), other / "list.parquet")
    assert open_source(str(other)).rows("train").captions == [["a"], ["c"]]
    (other / "list.parquet").write_bytes(b"PAR1 damaged")
    with pytest.raises(DataError, match="can't be read as a Parquet file"):
        open_source(str(other)).rows("train")


def test_splits_of_a_table_are_a_column_or_files(tmp_path: Path) -> None:
    one = write_images(tmp_path / "one", *(f"{number}.jpg" for number in range(4)))
    (one / "all.csv").write_text("image,caption,split\n0.jpg,a,train\n1.jpg,b,val\n2.jpg,c,test\n3.jpg,d,train\n")
    other = write_images(tmp_path / "two", *(f"{number}.jpg" for number in range(4)))
    for split, rows in (("train", "0.jpg,a\n3.jpg,d\n"), ("valid", "1.jpg,b\n"), ("test", "2.jpg,c\n")):
        (other / f"{split}.csv").write_text(f"image,caption\n{rows}")
    for root in (one, other):
        source = open_source(str(root))
        assert [source.rows(split).captions for split in source.splits()] == [[["a"], ["d"]], [["b"]], [["c"]]]


def test_classes_of_a_table_are_numbers_or_names(tmp_path: Path, stackflower) -> None:
    root = write_images(tmp_path / "data", *(f"{number}.jpg" for number in range(3)))
    (root / "x.csv").write_text("image,text,class\n0.jpg,a,0\n1.jpg,b,rose\n2.jpg,c,0\n")
    assert open_source(str(root)).rows("train").class_names == {0: "0", 1: "rose"}
    said = stackflower("data", "check", root).output
    assert "2 of 3 labels in" in said and "such as 'rose'; all are used as class names." in said
    (root / "x.csv").write_text("image,text,class\n0.jpg,a,0\n0.jpg,b,1\n")
    said = stackflower("data", "check", root, code=2).output
    assert "x.csv, line 3 gives 0.jpg another class than x.csv, line 2." in said


CAPTIONED = "id,caption\n0,a flower\n1,a rose\n"


@pytest.mark.parametrize("test", ["id\n2\n3\n", "id,width\n2,3\n", "id,caption\n2,\n3,\n"])
def test_a_split_without_captions_is_left_out(tmp_path: Path, test: str) -> None:
    write_images(tmp_path, *(f"{number}.jpg" for number in range(4)))
    (tmp_path / "train.csv").write_text(CAPTIONED)
    (tmp_path / "test.csv").write_text(test)
    (tmp_path / "sample_submission.csv").write_text("id,caption\n2,placeholder\n")
    for options in ({}, {"text_column": "caption"}):
        source = open_source(str(tmp_path), options)
        assert source.splits() == ["train"] and source.rows("train").captions == [["a flower"], ["a rose"]]
        notes = source.warnings("train")  # type: ignore[attr-defined]
        subject = f"The test split of {tmp_path}" if "caption" in test else str(tmp_path / "test.csv")
        assert f"{subject} has no captions and is left out." in notes


def test_a_table_with_unclear_captions_is_not_left_out(tmp_path: Path) -> None:
    write_images(tmp_path, *(f"{number}.jpg" for number in range(4)))
    (tmp_path / "train.csv").write_text(CAPTIONED)
    (tmp_path / "test.csv").write_text("id,one,other\n2,a red flower,a blue flower\n")
    with pytest.raises(DataError, match=r"holds the texts .* `data.table=train.csv` reads that table alone") as raised:
        open_source(str(tmp_path)).splits()
    assert "test.csv" in str(raised.value)
    assert open_source(str(tmp_path), {"table": "train.csv"}).splits() == ["train"]


def test_without_any_captions_the_first_table_is_named(tmp_path: Path) -> None:
    write_images(tmp_path, "0.jpg", "1.jpg")
    for split, number in (("train", 0), ("test", 1)):
        (tmp_path / f"{split}.csv").write_text(f"id\n{number}\n")
    with pytest.raises(DataError, match=r"test.csv holds the texts \(columns: id\)"):
        open_source(str(tmp_path)).splits()


def test_one_column_is_not_both_image_and_caption(tmp_path: Path) -> None:
    root = write_images(tmp_path, "0.jpg")
    (root / "x.csv").write_text("image,caption\n0.jpg,a flower\n")
    with pytest.raises(DataError, match=r"The column 'image' of .* can't hold both the images and the captions"):
        open_source(str(root), {"text_column": "image"}).splits()


@pytest.mark.parametrize("first", ["a red flower", "a red flower, number 0, with petals"])
@pytest.mark.parametrize("name", ["captions.txt", "list.csv"])
def test_captions_in_the_order_of_the_images_are_named(tmp_path: Path, first: str, name: str) -> None:
    write_images(tmp_path, "0.png", "1.png", "2.png")
    (tmp_path / name).write_text(f"{first}\na blue flower\n")
    with pytest.raises(DataError, match=r"has one caption per line and no image names \(2 lines, 3 images\); write"):
        open_source(str(tmp_path), layout="table").splits()


def test_other_tables_are_no_captions_in_order(tmp_path: Path) -> None:
    write_images(tmp_path, "0.png")
    (tmp_path / "x.csv").write_text("the number,the words\n17,a flower\n")
    with pytest.raises(DataError, match=r"holds the images \(columns: the number, the words\)"):
        open_source(str(tmp_path)).splits()


def test_names_of_columns_with_commas_are_quoted(tmp_path: Path) -> None:
    write_images(tmp_path, "0.png")
    (tmp_path / "x.csv").write_text('"a, b",title,""\n1,a flower,\n')
    with pytest.raises(DataError, match=r"holds the images \(columns: 'a, b', title\)"):
        open_source(str(tmp_path)).splits()
    with pytest.raises(DataError, match=r"has no column 'c'; its columns are 'a, b', title\."):
        open_source(str(tmp_path), {"text_column": "c"}).splits()


@pytest.mark.parametrize("column", ["class", "kind"])
def test_a_table_of_classes_is_named(tmp_path: Path, column: str) -> None:
    write_images(tmp_path, "rose/0.png", "iris/0.png")
    (tmp_path / "x.csv").write_text(f"{column},description\nrose,a red flower\nIris,a blue flower\n")
    with pytest.raises(DataError, match=r"x\.csv has a row for each class, such as 'rose', not for each image"):
        open_source(str(tmp_path)).splits()
    options = {"caption": "a photo of a {class_name}"}
    assert open_source(str(tmp_path), options, "images").rows("train").captions[0] == ["a photo of a iris"]


def test_equal_names_in_the_folders_of_classes_are_told_apart_by_the_class(tmp_path: Path) -> None:
    write_images(tmp_path, "rose/0.png", "iris/0.png", "iris/1.png")
    (tmp_path / "x.csv").write_text("class,file,caption\nrose,0.png,a\niris,0.png,b\niris,1.png,c\nlily,0.png,d\n")
    listing = open_source(str(tmp_path), {"skip_bad": True}).get_listing("train")  # type: ignore[attr-defined]
    assert {row["file_name"]: row["text"] for row in listing.rows} == {
        "rose/0.png": ["a"],
        "iris/0.png": ["b"],
        "iris/1.png": ["c"],
    }
    assert listing.problems == ["x.csv, line 5 names 0.png, which may be iris/0.png or rose/0.png."]


def test_rows_that_are_left_out_are_notes_of_a_check(tmp_path: Path, stackflower) -> None:
    root = write_images(tmp_path / "data", "0.png")
    (root / "broken.png").write_bytes(b"x")
    (root / "x.csv").write_text("image,caption\n0.png,a flower\nbroken.png,b\nnone.png,c\n")
    assert "2 problems." in stackflower("data", "check", "data", code=2).output
    said = stackflower("data", "check", "data", *settings("data.skip_bad=true")).output
    assert "Left out: train: x.csv, line 4 names none.png, which does not exist." in said
    assert "Left out: train:" in said and "broken.png can't be read" in said and "No problems found" in said
    (root / "0.png").unlink()
    stackflower("data", "check", "data", *settings("data.skip_bad=true"), code=2)


@pytest.mark.parametrize(
    ("caption", "is_marked"), [("Tom &amp; a <b>rose</b>", True), ("AT&T; 1 < 2 > 0 & I <3 it", False)]
)
def test_captions_with_html_are_reported(tmp_path: Path, caption: str, is_marked: bool) -> None:
    root = write_images(tmp_path, "0.png")
    (root / "x.csv").write_text(f"image,caption\n0.png,{caption}\n")
    notes = open_source(str(root)).warnings("train")  # type: ignore[attr-defined]
    assert notes == [f"Captions of {tmp_path} contain HTML, such as {caption!r}."] * is_marked

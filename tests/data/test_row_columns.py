"""Columns of tables: found by usual names, by cells, or chosen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from sample_data import jpeg, read_captions, write_images

from stackflower.data.rows.columns import name_columns, normalise_row
from stackflower.data.rows.detection import find_columns
from stackflower.data.sources.table import TableSource
from stackflower.errors import DataError

IMAGES = {"1.jpg", "2.jpg"}


def find(*rows: dict[str, Any], **chosen: str) -> Any:
    return find_columns(rows, chosen, lambda cell: (int(cell in IMAGES), str(cell)), "x.csv")


@pytest.mark.parametrize("text", ["text", "Caption", "CAPTIONS", "prompt", "Title", "description", "sentence", "raw"])
@pytest.mark.parametrize("image", ["file_name", "File Name", "IMAGE", "image-path", "img", "filename"])
def test_usual_names_are_found_in_any_capitalisation(image: str, text: str) -> None:
    columns = find({"other": "a b c", text: "a red flower", image: "9.jpg", "Class": 1, "Split": "train"})
    assert (columns.image, columns.texts, columns.label, columns.split) == (image, (text,), "Class", "Split")
    assert columns.notes == ()


def test_the_column_that_names_images_is_preferred() -> None:
    columns = find({"image": "x", "filename": "1.jpg", "text": "a"}, {"image": "y", "filename": "2.jpg", "text": "b"})
    assert columns.image == "filename"
    assert find({"Datei": "1.jpg", "text": "a"}).image == "Datei"


def read_table(root: Path, header: str, *rows: str) -> Any:
    """Return the listing of a table beside ``images/0.jpg`` to ``images/4.jpg``, with a caption in each row."""
    write_images(root, *(f"images/{number}.jpg" for number in range(5)))
    lines = [f"{header},caption", *(f"{row},flower of line {number}" for number, row in enumerate(rows, 2))]
    (root / "captions.csv").write_text("\n".join(lines) + "\n")
    return TableSource(path=str(root)).get_listing("train")


@pytest.mark.parametrize(
    ("header", "rows"),
    [
        ("index,filename", ("0,3.png", "1,2.png")),  # the files are JPEG files, and the index names others
        ("width,photo", ("4,3.jpg", "1,2.jpg")),
        (",filename", ("0,3.png", "1,2.png")),  # the index of pandas
        (",label", ("images/3.jpg,1", "images/2.jpg,0")),
        ("label,id", ("1,3", "1,2")),
        ("id,image", ("0,/data/upload/1/d82c07cd-3.jpg", "1,/data/upload/1/0123abcd-2.jpg")),
        ("id,image_id", ("0,3", "1,2")),
    ],
)
def test_numbers_name_images_only_if_nothing_else_does(tmp_path: Path, header: str, rows: tuple[str, ...]) -> None:
    listing = read_table(tmp_path, header, *rows)
    assert [(row["file_name"], row["text"]) for row in listing.rows] == [
        ("images/3.jpg", ["flower of line 2"]),
        ("images/2.jpg", ["flower of line 3"]),
    ]
    assert not listing.problems


@pytest.mark.parametrize(
    ("header", "row", "name"),
    [
        ("image_url,label", "https://example.com/u/7a2/photo,3", "https://example.com/u/7a2/photo"),
        ("photo,width", "dsc200x.cr2,3", "dsc200x.cr2"),
        ("id,path", "3,flowers/rose", "flowers/rose"),
        ("index,image", "3,x.jpg", "x.jpg"),
    ],
)
def test_names_of_missing_files_are_refused_although_numbers_match(
    tmp_path: Path, header: str, row: str, name: str
) -> None:
    listing = read_table(tmp_path, header, row)
    assert not listing.rows and listing.problems == [f"captions.csv, line 2 names {name}, which does not exist."]


@pytest.mark.parametrize("header", ["", "width", "label", "number"])
def test_numbers_alone_name_no_images_unless_the_column_says_so(tmp_path: Path, header: str) -> None:
    with pytest.raises(DataError, match="holds the images"):
        read_table(tmp_path, header, "3", "2")


@pytest.mark.parametrize("columns", [("source", "target"), ("before", "after"), ("target", "scribble")])
def test_two_columns_of_different_images_are_refused(columns: tuple[str, str]) -> None:
    one, other = columns
    rows = [{one: "1.jpg", other: "2.jpg", "text": "a"}, {one: "2.jpg", other: "1.jpg", "text": "b"}]
    with pytest.raises(DataError, match=rf"has two columns of images, '{one}' and '{other}'; choose with"):
        find(*rows)
    assert find(*rows, image=other).image == other, "the other is no column of classes, either"
    assert find(*rows, image=other).extend(["width", one, other]).label == ""


@pytest.mark.parametrize("row", [{"image": "1.jpg", "mask": "2.jpg"}, {"a": "1.jpg", "b": "1.jpg"}])
def test_two_columns_of_images_are_no_doubt_if_one_is_usual_or_both_are_the_same(row: dict[str, str]) -> None:
    assert find({**row, "text": "a"}).image == next(iter(row))


def test_a_json_file_with_two_columns_of_images_is_not_passed_over(tmp_path: Path) -> None:
    write_images(tmp_path, "source/1.png", "target/1.png")
    (tmp_path / "prompt.json").write_text('[{"source": "source/1.png", "target": "target/1.png", "text": "a circle"}]')
    with pytest.raises(DataError, match="two columns of images, 'source' and 'target'"):
        read_captions(tmp_path)
    assert read_captions(tmp_path, image_column="target") == [["a circle"]]


@pytest.mark.extras
def test_two_columns_that_hold_images_are_refused(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    from pyarrow import Table

    cell = {"bytes": jpeg(), "path": None}
    rows = [{"original_image": cell, "edited_image": cell, "prompt": "make it red"}]
    parquet.write_table(Table.from_pylist(rows), tmp_path / "train-00000-of-00001.parquet")
    with pytest.raises(DataError, match="two columns of images, 'original_image' and 'edited_image'"):
        read_captions(tmp_path)
    assert read_captions(tmp_path, image_column="edited_image") == [["make it red"]]


@pytest.mark.parametrize("count", [8, 9])
def test_as_many_classes_as_images_are_reported(tmp_path: Path, count: int) -> None:
    names = [f"{number}.jpg" for number in range(count)]
    write_images(tmp_path, *names)
    lines = ["image,caption,class", *(f"{name},a flower,class {name[0]}" for name in names)]
    (tmp_path / "captions.csv").write_text("\n".join(lines))
    notes = TableSource(path=str(tmp_path)).warnings("train")
    assert notes == ([f"{tmp_path} has as many classes as images (9), so the labels may not be classes."] * (count > 8))


def test_several_numbered_columns_hold_captions() -> None:
    columns = find({"image": "1.jpg", "caption_1": "a", "caption_2": "b", "caption_10": None})
    assert columns.texts == ("caption_1", "caption_2", "caption_10")
    row, problem = normalise_row({"image": "1.jpg", "caption_1": "a", "caption_2": "b", "caption_10": None}, columns)
    assert row == {"text": ["a", "b"]} and problem is None


def test_an_empty_column_with_a_usual_name_is_passed_over() -> None:
    assert find({"image": "1.jpg", "text": "", "caption": "a"}).texts == ("caption",)


@pytest.mark.parametrize(
    ("cells", "text", "others"),
    [
        ({"title": "IMG_0001.JPG", "description": "red"}, "description", "'title'"),
        ({"text": "SALE", "caption": "a red flower in a field"}, "caption", "'text'"),
        ({"caption": "rose", "description": "a red flower in a field"}, "description", "'caption'"),
        ({"title": "red and white stripes", "description": "a red flower in a field"}, "description", "'title'"),
        ({"prompt": "flower", "title": "a red one", "comment_1": "nice"}, "title", "'prompt', 'comment_1'"),
        ({"text": "a red flower", "caption": "a blue flower"}, "caption", "'text'"),
    ],
)
def test_of_several_usual_columns_the_one_with_sentences_is_used(cells: dict[str, str], text: str, others: str) -> None:
    columns = find({"image": "1.jpg", **cells})
    assert columns.texts == (text,)
    assert columns.notes == (
        f"The captions of x.csv are read from the column {text!r}, not from {others}; `data.text_column=NAME` chooses "
        "another.",
    )
    assert find({"image": "1.jpg", **cells}, text=text).notes == ()


def test_names_of_files_are_no_captions() -> None:
    with pytest.raises(DataError, match="holds the texts"):
        find({"image": "1.jpg", "title": "IMG_0001.JPG"})
    assert name_columns(("title", "description", "text", "caption")).texts == ("caption",), "keys of shards"
    assert name_columns(("title", "description")).texts == ("description",)


def test_the_only_column_with_sentences_is_used_with_a_note() -> None:
    columns = find({"image": "1.jpg", "beschreibung": "eine rote Blume", "width": 3, "url": "http://x/1.jpg"})
    assert columns.texts == ("beschreibung",)
    assert columns.notes[0] == (
        "The captions of x.csv are read from the column 'beschreibung'; `data.text_column=NAME` chooses another."
    )


@pytest.mark.parametrize(
    ("row", "chosen", "message"),
    [
        ({"image": "1.jpg", "a": "a red flower", "b": "in the sun"}, {}, "which column of x.csv holds the texts"),
        ({"image": "1.jpg", "a": "rose"}, {}, r"holds the texts \(columns: image, a\). Use `data.text_column=NAME`"),
        ({"a": "x", "text": "a red flower"}, {}, "which column of x.csv holds the images"),
        ({"id": "7", "text": "a red flower"}, {}, "which column of x.csv holds the images"),
        ({"image": "1.jpg", "text": "a"}, {"text": "t"}, "x.csv has no column 't'; its columns are image, text"),
    ],
)
def test_unclear_columns_are_named_with_the_setting_that_chooses_one(
    row: dict[str, Any], chosen: dict[str, str], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        find(row, **chosen)


def test_a_chosen_column_is_used_in_place_of_a_usual_one() -> None:
    row = {"image": "1.jpg", "text": "a", "other": "b", "label": 0, "kind": "rose", "split": "train", "part": "test"}
    columns = find(row, image="image", text="other", label="kind", split="part")
    assert (columns.texts, columns.label, columns.split) == (("other",), "kind", "part")


@pytest.mark.parametrize(
    ("label", "kept"),
    [(3, 3), ("3", 3), (3.0, 3), (" rose ", "rose"), ("--5", "--5"), ("1e3", "1e3"), (True, True), (-1, -1)],
)
def test_labels_are_numbers_or_names(label: object, kept: object) -> None:
    row, problem = normalise_row({"text": "a", "label": label}, name_columns(("text", "label")))
    assert problem is None and row["label"] == kept and type(row["label"]) is type(kept)


@pytest.mark.parametrize("label", [[1], {"a": 1}, 2.5, b"x"])
def test_labels_of_other_types_are_refused(label: object) -> None:
    _, problem = normalise_row({"text": "a", "label": label}, name_columns(("text", "label")))
    assert problem is not None and problem.startswith("has the label ") and "x" not in problem.split(";")[0]


@pytest.mark.parametrize("label", [None, "", "nan", float("nan"), "N/A"])
def test_missing_labels_are_no_labels(label: object) -> None:
    assert normalise_row({"text": "a", "label": label}, name_columns(("text", "label"))) == ({"text": ["a"]}, None)

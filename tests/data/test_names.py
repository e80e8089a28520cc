"""Names of images in metadata that come from other systems, folders and computers."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stackflower.data.files import Files
from stackflower.data.rows.assembly import Assembler
from stackflower.data.rows.containers import RawRow, RawTable
from stackflower.data.rows.names import NameResolver


class ListedFiles(Files):
    """Files of which only the names exist."""

    def __init__(self, *names: str, root: str = "/data"):
        super().__init__(Path(root))
        self.listed = names

    def list_entries(self) -> Iterator[tuple[str, Any]]:
        return ((name, None) for name in self.listed)

    def stamp(self, name: str) -> object:
        return None

    def read(self, name: str) -> bytes:
        return b""


@pytest.mark.parametrize(
    ("name", "file", "folder"),
    [
        ("a/1.jpg", "a/1.jpg", ""),
        ("./a/1.jpg", "a/1.jpg", ""),
        ("a//1.jpg", "a/1.jpg", ""),
        ("a\\1.jpg", "a/1.jpg", ""),
        (".\\a\\1.jpg", "a/1.jpg", ""),
        ("a/b/../1.jpg", "a/1.jpg", ""),
        (" a/1.jpg ", "a/1.jpg", ""),
        ("1.jpg", "a/1.jpg", "a"),  # relative to the metadata
        ("a/1.jpg", "a/1.jpg", "a"),  # relative to the data set
        ("1.jpg", "images/1.jpg", ""),  # in a usual folder beside the metadata
        ("1.jpg", "train/images/1.jpg", "train"),
        ("1.jpg", "Images/1.jpg", ""),
        ("A/1.JPG", "a/1.jpg", ""),
        ("1.jpg#0", "1.jpg", ""),
        (unicodedata.normalize("NFD", "blüte.jpg"), "blüte.jpg", ""),
        ("blüte.jpg", unicodedata.normalize("NFD", "blüte.jpg"), ""),
        ("a%20b.jpg", "a b.jpg", ""),
        ("1.jpg#12", "images/1.jpg", ""),
        ("/data/a/1.jpg", "a/1.jpg", ""),  # the data set is /data
    ],
)
def test_names_in_other_forms_are_exact(name: str, file: str, folder: str) -> None:
    match = NameResolver(ListedFiles(file, "other/9.jpg"), folder).find(name)
    assert (match.file, match.problem) == (file, None) and match.is_exact


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("/home/user/data/a/1.jpg", "a/1.jpg"),
        ("/home/user/1.jpg", "a/1.jpg"),
        ("~/data/1.jpg", "a/1.jpg"),
        ("C:\\data\\a\\1.jpg", "a/1.jpg"),
        ("https://example.com/a/1.jpg?size=large", "a/1.jpg"),
        ("https://example.com/x/a%20b.jpg", "a b.jpg"),
        ("s3://bucket/data/a/1.jpg", "a/1.jpg"),
        ("data/a/1.jpg", "a/1.jpg"),
        ("1.jpg", "deep/er/1.jpg"),
        ("1", "a/1.jpg"),
        ("a/1", "a/1.jpg"),
        ("/home/user/train/1.jpg", "train/1.jpg"),
        ("1.png", "a/1.jpg"),  # in another format
        ("391895", "val2014/COCO_val2014_000000391895.jpg"),
        ("7", "000000000007.jpg"),
        ("a/1.HEIC", "a/1.jpg"),
        ("/data/upload/1/d82c07cd-1.jpg", "images/1.jpg"),  # an upload of Label Studio
        ("d82c07cd-1.png", "a/1.jpg"),
    ],
)
def test_names_of_other_places_are_found_by_their_ends(name: str, file: str) -> None:
    match = NameResolver(ListedFiles(file, "other/9.jpg")).find(name)
    assert (match.file, match.problem) == (file, None) and not match.is_exact


@pytest.mark.parametrize(
    ("name", "files", "folder"),
    [
        # of another split, folder or form
        ("train/1.jpg", ["validation/1.jpg"], ""),
        ("/home/user/train/1.jpg", ["validation/1.jpg"], ""),
        ("C:\\data\\train\\1.jpg", ["val/1.jpg"], ""),
        ("https://example.com/train2017/1.jpg", ["test2017/1.jpg"], ""),
        ("1.jpg", ["validation/1.jpg"], "train"),
        ("/home/user/1.jpg", ["validation/1.jpg"], "train"),
        ("a/1.jpg", ["b/1.jpg"], ""),
        ("1.txt", ["1.jpg"], ""),
        ("x.png", ["1.jpg"], ""),
        ("7", ["IMG_0007.jpg", "1000000000007.jpg"], ""),
        ("9" * 5000, ["1.jpg"], ""),
        ("deadbee-1.jpg", ["1.jpg"], ""),
        ("x/deadbeef-1/2.jpg", ["1.jpg"], ""),
        ("01.jpg", ["1.jpg"], ""),
        ("11.jpg", ["1.jpg"], ""),
        ("ba/1.jpg", ["a/2.jpg"], ""),
        ("../1.jpg", ["a/2.jpg"], ""),
        ("/etc/passwd", ["a/1.jpg"], ""),
        (".", ["a/1.jpg"], ""),
        ("", ["a/1.jpg"], ""),
        ("/", ["a/1.jpg"], ""),
        ("a", ["a/1.jpg"], ""),
        (".jpg", ["a/1.jpg"], ""),
    ],
)
def test_a_missing_image_is_never_another_one(name: str, files: list[str], folder: str) -> None:
    match = NameResolver(ListedFiles(*files), folder).find(name)
    assert match.file is None and match.problem


@pytest.mark.parametrize(
    ("name", "files"),
    [
        ("1.jpg", ["a/1.jpg", "b/1.jpg"]),
        ("1", ["1.jpg", "1.png"]),
        ("/home/user/1.jpg", ["a/1.jpg", "b/1.jpg"]),
        ("A.jpg", ["x/a.jpg", "x/a.JPG"]),
        ("data/1.JPG", ["1.jpg", "1.Jpg"]),
        ("1.webp", ["1.jpg", "1.png"]),
        ("/upload/d82c07cd-1.jpg", ["a/1.jpg", "b/1.jpg"]),
    ],
)
def test_a_name_that_fits_several_files_is_refused(name: str, files: list[str]) -> None:
    match = NameResolver(ListedFiles(*files)).find(name)
    assert match.file is None
    assert match.problem in [f"names {name}, which may be {one} or {other}" for one, other in (files, files[::-1])]


def test_an_exact_name_is_preferred_to_similar_ones() -> None:
    resolver = NameResolver(ListedFiles("1.jpg", "1.JPG", "a/1.jpg", "b/1.jpg"))
    for name in ("1.jpg", "1.JPG", "a/1.jpg", "b/1.jpg"):
        assert resolver.find(name).file == name
    assert resolver.find("/x/b/1.jpg").file == "b/1.jpg", "the longest end"


def test_long_and_unprintable_names_are_cut_in_messages() -> None:
    resolver = NameResolver(ListedFiles("1.jpg"))
    for name in ("x" * 10_000 + ".jpg", "\x1b[31m.jpg", "a\nb.jpg"):
        problem = str(resolver.find(name).problem)
        assert len(problem) < 300 and problem.isprintable() and "which does not exist" in problem


def assemble(files: Files, *names: str) -> Any:
    """Return the listing of rows with these names, each with a caption of its own."""
    assembler = Assembler(files)
    rows = [RawRow(number, {"image": name, "text": f"flower {number}"}) for number, name in enumerate(names, 1)]
    assembler.read(RawTable("x.csv", rows))
    return assembler.finish()["train"]


@pytest.mark.parametrize(
    ("names", "file"),
    [
        (["b/1.jpg", "c/1.jpg"], "1.jpg"),
        (["1.jpg", "c/1.jpg"], "1.jpg"),
        (["c/1.jpg", "1.jpg"], "1.jpg"),
        (["1", "x/1"], "1.jpg"),
        (["/a/1.jpg", "/b/1.jpg"], "a/1.jpg"),
        (["https://one.com/1.jpg", "https://two.com/x/1.jpg"], "1.jpg"),
    ],
)
def test_two_different_names_never_share_one_file(names: list[str], file: str) -> None:
    listing = assemble(ListedFiles(file, "9.jpg"), *names, "9.jpg")
    assert [(row["file_name"], row["text"]) for row in listing.rows] == [
        (file, ["flower 1"]),
        ("9.jpg", ["flower 3"]),
    ]
    (problem,) = listing.problems
    assert problem == f"x.csv, line 2 names {names[1]}, but {file} was found for {names[0]}."


def test_rows_of_one_image_may_name_it_in_forms_that_are_exact() -> None:
    listing = assemble(ListedFiles("images/1.jpg"), "1.jpg", "./1.jpg", "images/1.jpg", "images\\1.jpg", "1.jpg#3")
    assert [row["text"] for row in listing.rows] == [[f"flower {number}" for number in range(1, 6)]]
    assert not listing.problems and not listing.notes


def test_rows_of_one_image_may_have_the_same_name_in_other_forms() -> None:
    names = ("/x/1.jpg#0", "/x/1.jpg#1", "\\x\\1.jpg", "/x/1.JPG")
    listing = assemble(ListedFiles("a/1.jpg"), *names)
    assert [row["text"] for row in listing.rows] == [[f"flower {number}" for number in range(1, 5)]]
    assert not listing.problems and "1 images" in listing.notes[0]


def test_other_names_are_reported() -> None:
    listing = assemble(ListedFiles("a/1.jpg", "a/2.jpg"), "/home/user/1.jpg", "/home/user/2.jpg")
    assert listing.notes == [
        "2 images in /data have other names in the metadata, such as /home/user/1.jpg for a/1.jpg."
    ]


PART = st.sampled_from(["a", "B", "ü", "train", "val", "images", "1", "2", "x y"])
NAME = st.builds(
    lambda folders, stem, end: "/".join([*folders, stem + end]),
    st.lists(PART, max_size=2),
    PART,
    st.sampled_from([".jpg", ".JPG", ".png"]),
)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(
    st.lists(NAME, min_size=1, max_size=5, unique=True),
    st.lists(
        st.builds(lambda start, name: start + name, st.sampled_from(["", "./", "/", "c:\\", "x/"]), NAME), max_size=6
    ),
)
def test_each_row_gives_its_caption_to_one_image_or_is_reported(files: list[str], names: list[str]) -> None:
    listing = assemble(ListedFiles(*files), *names, files[0])
    captions = [text for row in listing.rows for text in row["text"]]
    assert len(captions) == len(set(captions)) and len(captions) + len(listing.problems) == len(names) + 1
    assert {row["file_name"] for row in listing.rows} <= set(files)
    for number, name in enumerate(names, 1):
        taken = [row["file_name"] for row in listing.rows if f"flower {number}" in row["text"]]
        if name in files and taken:
            assert taken == [name]


def test_names_in_a_folder_are_found_in_it(tmp_path: Path) -> None:
    from sample_data import write_images

    from stackflower.data.opening import open_source

    root = write_images(tmp_path / "data", "train/ab/1.png", "train/ab/2.png", "val/ab/1.png")
    rows = [{"file_name": name, "text": "a"} for name in ("C:\\old\\train\\ab\\1.png", "ab/2.png", "ab/3.png")]
    (root / "train" / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (root / "val" / "metadata.jsonl").write_text(json.dumps({"file_name": "1.png", "text": "b"}))
    source = open_source(str(root))
    listing = source.get_listing("train")
    assert listing.names == ["train/ab/1.png", "train/ab/2.png"]
    assert listing.problems == ["train/metadata.jsonl, line 3 names ab/3.png, which does not exist."]
    assert source.rows("validation").files == ["val/ab/1.png"]

"""Data sets in the forms in which people report that they have them: each is read right, or refused in a sentence."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import TINY_NETWORKS
from PIL import Image
from sample_data import jpeg, read_captions, write_folder, write_images, write_jpegs, write_tar

from stackflower.data.opening import open_source, source_part

# ---- 03: extensions


ENDINGS = ("JPG", "JPEG", "Jpg", "jfif", "jpe", "pjpeg", "avif", "heic")  # all of JPEG files


def test_images_with_rare_extensions_are_read_beside_texts(tmp_path: Path, stackflower) -> None:
    for number, ending in enumerate(ENDINGS):
        write_jpegs(tmp_path / "d", f"{number}.{ending}")
        (tmp_path / "d" / f"{number}.txt").write_text(f"flower {number}")
    said = stackflower("data", "check", "d").output
    assert "train: 8 images, 8 captions." in said and "No problems found" in said


def test_images_with_rare_extensions_are_read_in_metadata_and_shards(tmp_path: Path, stackflower) -> None:
    names = ("0.JPG", "1.JPEG", "2.jfif")
    write_folder(write_jpegs(tmp_path / "m", *names), [{"file_name": name, "text": "a"} for name in names])
    assert "train: 3 images, 3 captions." in stackflower("data", "check", "m").output
    write_tar(tmp_path / "t" / "s.tar", {"3.jfif": jpeg(), "3.txt": b"a red flower"})
    assert "train: 1 images, 1 captions." in stackflower("data", "check", "t").output


# ---- 05: hidden files


def test_hidden_files_of_notebooks_and_systems_are_no_data(tmp_path: Path, stackflower) -> None:
    root = write_jpegs(tmp_path / "d", "0.jpg", "1.jpg", ".ipynb_checkpoints/0-checkpoint.jpg")
    for number in range(2):
        (root / f"{number}.txt").write_text(f"flower {number}")
    (root / "._1.jpg").write_bytes(b"\0\5\26\7\0\2\0\0Mac OS X")
    for name in (".DS_Store", "Thumbs.db", "desktop.ini"):
        (root / name).write_bytes(b"?")
    said = stackflower("data", "check", "d").output
    assert "train: 2 images, 2 captions." in said and "No problems found" in said
    assert open_source(str(root)).check() == ([], ["train: 2 images, 2 captions."]), "and no remarks"


# ---- 07: columns of one's own


@pytest.mark.parametrize(
    ("image", "text", "is_usual"),
    [
        ("file_name", "prompt", True),
        ("file_name", "additional_feature", False),
        ("file_name", "caption", True),
        ("image", "caption", True),
        ("image", "text", True),
        ("file_name", "TEXT", True),
    ],
)
def test_metadata_may_have_columns_of_other_names(
    tmp_path: Path, stackflower, image: str, text: str, is_usual: bool
) -> None:
    root = write_images(tmp_path / "d", "0.png", "1.png")
    write_folder(root, [{image: f"{number}.png", text: f"a red flower {number}"} for number in range(2)])
    assert source_part(str(root)) == {"name": "folder", "path": str(root)}
    assert read_captions(root) == read_captions(root, text_column=text) == [["a red flower 0"], ["a red flower 1"]]
    said = stackflower("data", "check", "d").output
    assert ("are read from the column" not in said) == is_usual
    assert f"column '{text}'; --set data.text_column=NAME" in said or is_usual
    said = stackflower("data", "check", "d", "--set", f"data.text_column={text}").output
    assert "are read from the column" not in said and "train: 2 images, 2 captions." in said


def test_metadata_csv_with_a_caption_is_a_folder_and_a_table(tmp_path: Path) -> None:
    root = write_images(tmp_path, "0.png", "1.png")
    (root / "metadata.csv").write_text("file_name,caption\n0.png,a\n1.png,b\n")
    assert read_captions(root) == [["a"], ["b"]]
    source = open_source(str(root), {"table": "metadata.csv"}, "table")
    assert list(source.rows("train").captions) == [["a"], ["b"]]


# ---- 08: a row for each caption


@pytest.mark.parametrize("skip_bad", [False, True])
def test_rows_of_one_image_are_merged(tmp_path: Path, skip_bad: bool) -> None:
    root = write_images(tmp_path, "0.png", "1.png")
    texts = ("a red flower", "a big flower", "a nice flower")
    rows = [{"file_name": f"{number}.png", "text": text} for text in texts for number in range(2)]
    write_folder(root, [*rows, *rows])
    source = open_source(str(root), {"skip_bad": skip_bad})
    assert list(source.rows("train").captions) == [list(texts)] * 2, "a repeated row counts once"
    assert source.check() == ([], ["train: 2 images, 6 captions."])


# ---- 10: dialects of CSV


@pytest.mark.parametrize("name", ["metadata.csv", "captions.csv"])
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("file_name;text\n0.png;a red flower\n1.png;blue, with leaves\n", [["a red flower"], ["blue, with leaves"]]),
        (
            ',image,caption\n0,0.png,a red flower\n1,1.png,"a ""blue"" 5"" flower, with\na line break"\n',
            [["a red flower"], ['a "blue" 5" flower, with a line break']],
        ),
        (
            'image,caption\n0.png,"[\'a red flower\', ""it\'s tall""]"\n1.png,"[""a"", ""b""]"\n',
            [["a red flower", "it's tall"], ["a", "b"]],
        ),
        ("\ufeffimage,caption\r\n0.png,a\r\n1.png,b\r\n", [["a"], ["b"]]),
        ("sep=;\nimage;caption\n0.png;a\n1.png;b\n", [["a"], ["b"]]),
        ("Image Name,Caption Text\n0.png,a\n1.png,b\n", [["a"], ["b"]]),
        ("image_id,text\n0,a\n1,b\n", [["a"], ["b"]]),
    ],
    ids=["semicolons", "pandas", "lists", "BOM and CRLF", "sep=", "names with spaces", "ids"],
)
def test_tables_are_read_as_excel_and_pandas_write_them(
    tmp_path: Path, name: str, text: str, expected: list[list[str]]
) -> None:
    root = write_images(tmp_path, "0.png", "1.png")
    (root / name).write_text(text, encoding="utf-8", newline="")
    assert read_captions(root) == expected


def test_the_table_of_flickr30k_on_the_hub_is_read_as_it_is(tmp_path: Path) -> None:
    root = write_images(tmp_path, "0.png", "1.png", "2.png")
    cells = ('x,"[""Two flowers."", ""Red ones.""]",train,0.png,0', 'x,"[""A flower.""]",val,1.png,1')
    rest = 'x,"[""A leaf.""]",restval,2.png,2'
    (root / "captions.csv").write_text("\n".join(("image,raw,split,filename,img_id", *cells, rest)))
    assert read_captions(root) == [["Two flowers.", "Red ones."]] and read_captions(root, "validation") == [
        ["A flower."]
    ]
    told = open_source(str(root)).warnings("train")
    assert any("'restval'" in note for note in told), "its rows are left out"


def test_a_table_in_another_encoding_names_the_setting(tmp_path: Path, stackflower) -> None:
    root = write_images(tmp_path / "d", "0.png")
    (root / "captions.csv").write_bytes(b"image,caption\n0.png,une fleur bleut\xe9e\n")
    said = stackflower("data", "check", "d", code=2).output
    assert "captions.csv is not a text file in UTF-8" in said and "--set data.encoding=cp1252" in said
    assert read_captions(root, encoding="cp1252") == [["une fleur bleutée"]]


# ---- text files, folders of classes, and detection


def test_texts_of_other_names_and_in_a_parallel_folder_are_found(tmp_path: Path) -> None:
    write_images(tmp_path / "a", "0.png", "1.png", "2.png")
    for name in ("0.caption", "1.png.txt", "2.txt"):
        (tmp_path / "a" / name).write_text(name)
    assert read_captions(tmp_path / "a") == [["0.caption"], ["1.png.txt"], ["2.txt"]]
    write_images(tmp_path / "b", "images/0.png", "images/x/1.png")
    for name in ("text/0.txt", "text/x/1.txt"):
        (tmp_path / "b" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "b" / name).write_text(name)
    assert read_captions(tmp_path / "b") == [["text/0.txt"], ["text/x/1.txt"]]


def test_the_layout_that_uses_the_most_images_is_detected(tmp_path: Path, stackflower) -> None:
    root = write_images(tmp_path / "d", *(f"{number}.png" for number in range(3)))
    for number in range(3):
        (root / f"{number}.txt").write_text("a")
    write_folder(root, [{"file_name": "0.png", "text": "b"}])
    assert source_part(str(root))["name"] == "sidecar"
    write_folder(root, [{"file_name": f"{number}.png", "text": "b"} for number in range(3)])
    assert source_part(str(root))["name"] == "folder", "of as many images, by precedence"
    assert read_captions(root) == [["b"]] * 3
    assert list(open_source(str(root), layout="sidecar").rows("train").captions) == [["a"]] * 3


def test_images_without_captions_are_refused_by_train_and_take_captions_of_their_classes(
    tmp_path: Path, stackflower
) -> None:
    write_images(tmp_path / "d", "red_rose/0.png", "iris/0.png", "iris/1.png")
    assert source_part(str(tmp_path / "d"))["name"] == "images"
    said = stackflower("train", "--data", "d", "--images", 8, "--out", "run", *TINY_NETWORKS, code=2).output
    assert "d has no captions. Add a metadata.jsonl" in said
    assert '--set data.caption="a photo of a {class_name}"' in said
    rows = open_source(str(tmp_path / "d"), {"caption": "a {class_name}"}).rows("train")
    assert list(rows.captions) == [["a iris"], ["a iris"], ["a red rose"]]
    assert rows.labels == [0, 0, 1] and rows.class_names == {0: "iris", 1: "red_rose"}


@pytest.mark.parametrize("layout", ["images/val2017", "val2017", "images/train2017"])
def test_coco_may_have_images_in_a_folder_of_their_own_and_only_one_split(tmp_path: Path, layout: str) -> None:
    part = layout.rpartition("/")[2]
    write_images(tmp_path / layout, "0.png")
    (tmp_path / "annotations").mkdir()
    annotations = {
        "images": [{"id": 7, "file_name": "0.png"}],
        "annotations": [{"image_id": 7, "caption": text} for text in ("a", "b")],
    }
    (tmp_path / "annotations" / f"captions_{part}.json").write_text(json.dumps(annotations))
    source = open_source(str(tmp_path))
    assert source_part(str(tmp_path))["name"] == "coco" and source.splits() == ["train"]
    assert list(source.rows("train").captions) == [["a", "b"]] and source.rows("train").files == [f"{layout}/0.png"]


@pytest.mark.parametrize("is_csv", [False, True])
def test_flickr30k_is_read_as_it_is_downloaded(tmp_path: Path, is_csv: bool) -> None:
    write_images(tmp_path, "flickr30k_images/1.jpg", "flickr30k_images/2.jpg")
    if is_csv:
        lines = ["image_name| comment_number| comment", "1.jpg| 0| A | bar", "1.jpg| 1| B", "2.jpg| 0| C"]
        (tmp_path / "results.csv").write_text("\n".join(line.replace("A | bar", "A") for line in lines))
    else:
        (tmp_path / "results_20130124.token").write_text("1.jpg#0\tA\n1.jpg#1\tB\n2.jpg#0\tC\n")
    assert source_part(str(tmp_path))["name"] == "flickr30k"
    assert read_captions(tmp_path) == [["A", "B"], ["C"]]


def test_images_keep_their_pixels_in_all_forms(tmp_path: Path) -> None:
    """The image that a row names is the one that is read."""
    import numpy as np

    for number in range(3):
        path = tmp_path / "images" / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (16, 16), (80 * number, 0, 0)).save(path)
    (tmp_path / "list.csv").write_text("image,caption\n2.png,c\n/home/x/0.png,a\nimages\\1.png,b\n")
    source = open_source(str(tmp_path))
    images = np.zeros((3, 16, 16, 3), np.uint8)
    source.fill("train", images, lambda finished: None)
    assert images[:, 0, 0, 0].tolist() == [160, 0, 80]

"""Nothing of a data set is lost, there twice or of another split without a word."""

from __future__ import annotations

import json
import pickle
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest
from sample_data import picture, sidecar

from stackflower.data.opening import open_source
from stackflower.errors import DataError


def coco(root: Path, images: list[dict[str, Any]], year: int = 2017, captions: str = "aaaa") -> Path:
    (root / "annotations").mkdir(parents=True, exist_ok=True)
    for one in images:
        picture(root / f"train{year}" / one["file_name"])
    annotations = [{"image_id": number, "caption": captions[number]} for number in {one["id"] for one in images}]
    written = json.dumps({"images": images, "annotations": annotations})
    (root / "annotations" / f"captions_train{year}.json").write_text(written)
    return root


def test_captions_of_a_file_that_is_listed_twice_are_merged(tmp_path: Path, stackflower) -> None:
    root = coco(tmp_path / "coco", [{"id": n, "file_name": f"{min(n, 1)}.png"} for n in range(3)], captions="abc")
    assert open_source(str(root)).rows("train").captions == [["a"], ["b", "c"]]
    coco(tmp_path / "ids", [{"id": 0, "file_name": "0.png"}, {"id": 0, "file_name": "1.png"}])
    assert "lists the image 0 several times" in stackflower("data", "check", "ids", code=2).output
    root = tmp_path / "birds"
    (root / "train").mkdir(parents=True)
    (root / "train" / "filenames.pickle").write_bytes(pickle.dumps(["c/0", "c/1", "c/1"]))
    for number in range(2):
        picture(root / "images" / "c" / f"{number}.png")
        (root / "text" / "c").mkdir(parents=True, exist_ok=True)
        (root / "text" / "c" / f"{number}.txt").write_text("a bird")
    assert open_source(str(root)).rows("train").captions == [["a bird"], ["a bird"]]


def test_annotations_of_another_year_are_named(tmp_path: Path, stackflower) -> None:
    root = coco(tmp_path / "coco", [{"id": 0, "file_name": "0.png"}], 2014)
    coco(root, [{"id": 0, "file_name": "0.png"}], 2017)
    said = stackflower("data", "check", "coco").output
    assert "1 files in" in said and "are not read, such as annotations/captions_train2017.json, which " in said
    assert "is of the same split as the captions that are used." in said
    assert "1 images in" in said and "have no row and are not used (train2017/0.png)" in said


def test_folders_of_splits_in_capitals_are_splits_and_images_outside_of_them_are_told(
    tmp_path: Path, stackflower
) -> None:
    root = tmp_path / "data"
    for folder in ("Train", "TEST", "val", "valid", "."):
        sidecar(root / folder, 2)
    source = open_source(str(root))
    assert source.splits() == ["train", "validation", "test"]
    assert [len(source.rows(split)) for split in source.splits()] == [2, 4, 2], "val and valid"
    said = stackflower("data", "check", "data").output
    assert "2 images in " in said and "are outside the split folders and are not used, such as 0.png." in said


def test_zip_archives_of_other_programs_are_read(tmp_path: Path) -> None:
    root = sidecar(tmp_path / "data", 2)
    for name, prefix in (("windows.zip", "{}\\"), ("dots.zip", "./{}/")):
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            for split in ("train", "test"):
                for file in root.iterdir():
                    archive.write(file, prefix.format(split) + file.name)
        assert open_source(str(tmp_path / name)).splits() == ["train", "test"]


def test_a_tar_file_that_ends_with_a_zip_archive_is_read_as_tar(tmp_path: Path) -> None:
    root = sidecar(tmp_path / "data", 1)
    with zipfile.ZipFile(root / "zz.zip", "w") as archive:
        archive.write(root / "0.png", "9.png")
        archive.writestr("9.txt", "another")
    with tarfile.open(tmp_path / "data.tar", "w") as tar:
        for name in ("0.png", "0.txt", "zz.zip"):
            tar.add(root / name, f"data/{name}")
    source = open_source(str(tmp_path / "data.tar"), layout="sidecar")
    assert source.rows("train").captions == [["flower 0"]]


def test_lines_of_a_table_without_a_caption_are_told(tmp_path: Path, stackflower) -> None:
    for number in range(2):
        picture(tmp_path / "data" / f"{number}.png")
    (tmp_path / "data" / "x.csv").write_text("image,caption\n0.png,a\n0.png\n1.png,b\n")
    assert "1 rows have no caption, such as x.csv, line 3." in stackflower("data", "check", "data").output


def test_classes_of_a_test_split_do_not_collide(tmp_path: Path) -> None:
    for split, label in (("train", "0"), ("test", "rose")):
        picture(tmp_path / "data" / f"{split}.png")
        (tmp_path / "data" / f"{split}.csv").write_text(f"image,caption,class\n{split}.png,a,{label}\n")
    source = open_source(str(tmp_path / "data"))
    assert source.rows("train").labels == [0]
    with pytest.raises(DataError, match="has the label 'rose'"):
        source.rows("test")


def test_a_class_of_two_names_is_told(tmp_path: Path, stackflower) -> None:
    root, rows = tmp_path / "data", []
    for number, name in enumerate(("rose", "iris")):
        picture(root / f"{number}.png")
        rows.append(json.dumps({"file_name": f"{number}.png", "text": "a", "label": 1, "class_name": name}))
    (root / "metadata.jsonl").write_text("\n".join(rows))
    assert "names the class 1 both 'rose' and 'iris'" in stackflower("data", "check", "data").output


@pytest.mark.parametrize(
    ("label", "number", "names"),
    [("٣", 3, {}), ("3.0", 3, {}), (" 3 ", 3, {})] + [(name, 0, {0: name}) for name in ("--5", "5-", "1e3", "rose")],
)
def test_labels_are_whole_numbers_in_any_script_or_names(
    tmp_path: Path, label: str, number: int, names: dict[int, str]
) -> None:
    picture(tmp_path / "data" / "0.png")
    (tmp_path / "data" / "metadata.csv").write_text(f"file_name,text,label\n0.png,a,{label}\n", encoding="utf-8")
    rows = open_source(str(tmp_path / "data")).rows("train")
    assert rows.labels == [number] and rows.class_names == names


@pytest.mark.parametrize("row", [{"class_name": "\ud800", "label": 1}, {"attributes": {"a": "\ud800"}}])
def test_half_of_a_surrogate_pair_outside_captions_is_refused(tmp_path: Path, stackflower, row: dict[str, Any]) -> None:
    picture(tmp_path / "data" / "0.png")
    (tmp_path / "data" / "metadata.jsonl").write_text(json.dumps({"file_name": "0.png", "text": "a", **row}))
    assert "half of a surrogate pair" in stackflower("data", "check", "data", code=2).output


def write_table(root: Path, text: str, count: int = 4) -> Path:
    for number in range(count):
        picture(root / "images" / f"{number}.png")
    (root / "table.csv").write_text(text, encoding="utf-8")
    return root


@pytest.mark.parametrize("counter", ["id", "key", "image_id", "index"])
@pytest.mark.parametrize("name", ["photo", "image_url", "asset"])
def test_a_counter_does_not_beat_names_of_files(tmp_path: Path, counter: str, name: str) -> None:
    rows = "".join(f"{3 - number},{number}.png,flower {number}\n" for number in range(4))
    source = open_source(str(write_table(tmp_path / "data", f"{counter},{name},caption\n{rows}")))
    read = dict(zip(source.rows("train").files or (), source.rows("train").captions, strict=True))
    assert read == {f"images/{number}.png": [f"flower {number}"] for number in range(4)}


def test_a_column_of_splits_is_found_by_its_words_and_refused_without_any(tmp_path: Path, stackflower) -> None:
    words = "".join(f"{number}.png,flower {number},{word}\n" for number, word in enumerate(["train"] * 3 + ["test"]))
    source = open_source(str(write_table(tmp_path / "words", f"image,caption,usage\n{words}")))
    assert [len(source.rows(split)) for split in ("train", "test")] == [3, 1]
    numbers = "".join(f"{number}.png,flower {number},{number // 2}\n" for number in range(4))
    write_table(tmp_path / "numbers", f"image,caption,split\n{numbers}")
    said = stackflower("data", "check", "numbers").output
    assert "numbers holds '0', '1', none of train, validation and test" in said
    chosen = ("--set", "data.split_column=split")
    assert "write these words in its cells" in stackflower("data", "check", "numbers", *chosen, code=2).output


@pytest.mark.parametrize("folders", [("TrainImages", "TestImages"), ("trainset", "testset")])
def test_folders_of_splits_may_have_words_in_capitals(tmp_path: Path, folders: tuple[str, str]) -> None:
    for folder in folders:
        sidecar(tmp_path / "data" / folder, 2)
    assert open_source(str(tmp_path / "data")).splits() == ["train", "test"]


def test_lists_of_splits_are_told(tmp_path: Path, stackflower) -> None:
    root = write_table(tmp_path / "data", "image,caption\n" + "".join(f"{n}.png,flower {n}\n" for n in range(4)))
    for split in ("train", "test"):
        (root / f"{split}.txt").write_text("a rose\nan iris\n")
    assert "test.txt, train.txt may list the images of splits" in stackflower("data", "check", "data").output


def test_the_first_row_of_ids_is_no_header(tmp_path: Path) -> None:
    text = "".join(f"{number},red hair {caption}\n" for number in range(4) for caption in range(2))
    captions = open_source(str(write_table(tmp_path / "data", text))).rows("train").captions
    assert captions == [["red hair 0", "red hair 1"]] * 4


def test_two_text_files_of_a_sample_are_told(tmp_path: Path, stackflower) -> None:
    picture(tmp_path / "0.png")
    (tmp_path / "data").mkdir()
    with tarfile.open(tmp_path / "data" / "0.tar", "w") as shard:
        shard.add(tmp_path / "0.png", "0.png")
        for number in range(2):
            (tmp_path / "text").write_text(f"flower {number}")
            shard.add(tmp_path / "text", f"0.caption{number}.txt")
    assert "has two .txt files" in stackflower("data", "check", "data", code=2).output


def test_conversations_are_no_captions(tmp_path: Path, stackflower) -> None:
    picture(tmp_path / "data" / "0.png")
    talk = [{"from": "human", "value": "<image> Describe it."}, {"from": "gpt", "value": "A red flower."}]
    (tmp_path / "data" / "chat.json").write_text(json.dumps([{"image": "0.png", "conversations": talk}]))
    stackflower("data", "check", "data", code=2)


def test_unread_tables_are_named_where_captions_are_missing(tmp_path: Path, stackflower) -> None:
    root = write_table(tmp_path / "data", "image,width\n0.png,5\n")
    (root / "authors.csv").write_text("name,address\nx,y\n")
    said = stackflower("data", "check", "data", code=2).output
    assert "authors.csv, table.csv can't be read as captions: Can't tell which column of " in said
    assert "Options of a table need --format table and --set data.table=authors.csv, too." in said


def test_a_split_that_is_used_for_training_is_told(tmp_path: Path, stackflower) -> None:
    for folder in ("val", "test"):
        sidecar(tmp_path / "data" / folder, 2)
    assert open_source(str(tmp_path / "data")).splits() == ["train", "test"]
    said = stackflower("data", "check", "data").output
    assert "'val' is used for training, because no split is called train." in said

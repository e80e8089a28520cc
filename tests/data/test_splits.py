"""Splits: found by the hub's keywords as whole words."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from sample_data import count_images, sidecar, write_images

from stackflower.data.opening import open_source
from stackflower.data.splits import assign_splits, find_split


@pytest.mark.parametrize(
    ("names", "split"),
    [
        (["train", "Training", "train-00000-of-00007.parquet", "my_train", "train2017", "TRAIN.v2"], "train"),
        (["validation", "valid", "val", "dev", "Val2017", "x-dev-0"], "validation"),
        (["test", "testing", "eval", "evaluation", "test_0", "TEST"], "test"),
        (["latest", "trains", "retrain", "valley", "device", "contest", "restval", "", "images", "tester"], None),
    ],
)
def test_keywords_are_whole_words_of_names(names: list[str], split: str | None) -> None:
    assert [find_split(name) for name in names] == [split] * len(names)


@pytest.mark.parametrize(
    ("names", "splits"),
    [
        (["train", "val", "valid", "x"], ["train", "validation", "validation", None]),
        (["x", "y"], ["train", "train"]),
        (["x", "test"], ["train", "test"]),
        (["x", "val", "test"], ["train", "validation", "test"]),
        (["val", "test"], ["train", "test"]),
        (["test"], ["train"]),
        ([], []),
    ],
)
def test_names_without_a_keyword_are_for_training_if_nothing_else_is(
    names: list[str], splits: list[str | None]
) -> None:
    assert list(assign_splits(names).values()) == splits


@pytest.mark.parametrize(
    ("folders", "counts"),
    [
        (["training", "dev", "valid", "eval", "testing"], {"train": 1, "validation": 2, "test": 2}),
        (["a", "test"], {"train": 1, "test": 1}),
        (["flowers_train", "flowers_dev"], {"train": 1, "validation": 1}),
        (["train", "val", "a", "b", "c"], {"train": 1, "validation": 1}),
        (["train_images", "images-test", "TestSet", "val2017"], {"train": 1, "validation": 1, "test": 2}),
        (["latest", "contest"], {"train": 2}),
    ],
)
def test_all_folders_of_one_split_are_used_together(tmp_path: Path, folders: list[str], counts: dict[str, int]) -> None:
    for folder in folders:
        sidecar(tmp_path / folder, 1)
    source = open_source(str(tmp_path))
    assert {split: source.count_images(split) for split in source.splits()} == counts
    files = [name for split in source.splits() for name in source.rows(split).files or ()]
    used = [folder for folder in folders if len(folder) > 1 or "train" not in folders]
    assert sorted(files) == sorted(f"{folder}/0.png" for folder in used), "names are relative to the data set"


@pytest.mark.parametrize(
    "folders", [("10_steam train", "5_tram", "3_bus"), ("beaker", "test tube"), ("test tube", "train station")]
)
def test_classes_are_no_splits(tmp_path: Path, folders: tuple[str, ...]) -> None:
    for folder in folders:
        sidecar(tmp_path / folder, 2)
    source = open_source(str(tmp_path))
    assert source.splits() == ["train"] and source.count_images("train") == 2 * len(folders)
    assert source.warnings("train") == []  # type: ignore[attr-defined]


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("layout", ["images", "sidecar", "table"])
def test_a_single_split_among_classes_is_a_class(tmp_path: Path, split: str, layout: str) -> None:
    for folder in ("bus", "car", split):
        sidecar(tmp_path / folder, 2)
    (tmp_path / "x.csv").write_text(f"image,caption\nbus/0.png,a\n{split}/0.png,b\n")
    source = open_source(str(tmp_path), layout=layout)
    assert source.splits() == ["train"] and source.count_images("train") == (2 if layout == "table" else 6)
    note = next(note for note in source.warnings("train") if "folder" in note)  # type: ignore[attr-defined]
    assert f"The folder {split!r} of {tmp_path} is taken for a class, because most images are in folders" in note
    assert note.endswith(f"to read it as the {split} split, list its images in {split}.txt.")
    (tmp_path / f"{split}.txt").write_text(f"{split}/0.png\n{split}/1.png\n")
    source = open_source(str(tmp_path), layout=layout)
    counts = {each: source.count_images(each) for each in source.splits()}
    others, of_split = (1, 1) if layout == "table" else (4, 2)
    assert counts == ({"train": of_split} if split == "train" else {"train": others, "test": of_split})


def test_a_split_of_most_images_is_a_split(tmp_path: Path) -> None:
    sidecar(tmp_path / "train", 9)
    write_images(tmp_path, "assets/teaser.png", "docs/figure.png", "docs/logo.png")
    source = open_source(str(tmp_path), layout="images")
    assert source.count_images("train") == 9


def test_images_without_a_class_get_no_caption_with_one(tmp_path: Path) -> None:
    write_images(tmp_path, "train/rose/1.png", "train/iris/1.png", "train/1.png")
    source = open_source(str(tmp_path), {"caption": "a photo of a {class_name}"})
    problems = source.get_listing("train").problems  # type: ignore[attr-defined]
    assert problems == [
        "train/1.png is not in the folder of a class, which `data.caption` = 'a photo of a {class_name}' needs."
    ]


@pytest.mark.parametrize(
    ("values", "counts", "notes"),
    [
        (["train", "Dev", "testing", "valid"], {"train": 1, "validation": 2, "test": 1}, []),
        (["train", "holdout", ""], {"train": 1}, ["1 rows of the split 'holdout'", "1 rows without a split"]),
        (["holdout", "test"], {"train": 1, "test": 1}, []),
        (["", "test"], {"train": 1, "test": 1}, []),
    ],
)
def test_values_of_no_split_beside_train_are_left_out_and_reported(
    tmp_path: Path, values: list[str], counts: dict[str, int], notes: list[str]
) -> None:
    write_images(tmp_path, *(f"{number}.png" for number in range(len(values))))
    with (tmp_path / "captions.csv").open("w", newline="") as file:
        csv.writer(file).writerows(
            [("image", "caption", "split"), *((f"{number}.png", "a", value) for number, value in enumerate(values))]
        )
    source = open_source(str(tmp_path))
    assert {split: source.count_images(split) for split in source.splits()} == counts
    told = source.warnings("train")
    assert len(told) == len(notes) and all(map(str.startswith, told, notes))


def test_an_image_of_two_splits_is_reported(tmp_path: Path) -> None:
    write_images(tmp_path, "0.png", "1.png")
    (tmp_path / "x.csv").write_text("image,caption,split\n0.png,a,train\n0.png,b,test\n1.png,c,test\n")
    (problem,) = open_source(str(tmp_path)).get_listing("test").problems  # type: ignore[attr-defined]
    assert problem == "x.csv, line 3 gives 0.png the split 'test', but another row gives it 'train'."


LISTED = {"train": ["0", "2", "3"], "val": ["1"], "test": ["4"]}


def write_lists(root: Path, form: str = "{}.png", name: str = "{}.txt", lists: dict[str, list[str]] = LISTED) -> Path:
    for split, numbers in lists.items():
        (root / name.format(split)).parent.mkdir(parents=True, exist_ok=True)
        (root / name.format(split)).write_text("".join(form.format(number) + "\n" for number in numbers))
    return root


@pytest.mark.parametrize("layout", ["images", "sidecar", "table", "folder"])
@pytest.mark.parametrize("form", ["images/{}.png", "{}.png", "{}", "/home/me/images/{}.jpg", "images/{}.png 7"])
def test_lists_of_images_give_the_splits(tmp_path: Path, layout: str, form: str) -> None:
    write_images(tmp_path, *(f"images/{number}.png" for number in range(5)))
    (tmp_path / "captions").mkdir()
    for number in range(5):
        (tmp_path / "captions" / f"{number}.txt").write_text("a flower")
    lines = "".join(f"images/{number}.png,a flower\n" for number in range(5))
    for table in ("metadata.csv", "table.csv"):
        (tmp_path / table).write_text(f"file_name,text\n{lines}")
    source = open_source(str(write_lists(tmp_path, form)), layout=layout)
    assert {split: source.rows(split).files for split in source.splits()} == {
        "train": ["images/0.png", "images/2.png", "images/3.png"],
        "validation": ["images/1.png"],
        "test": ["images/4.png"],
    }
    assert "The splits are read from test.txt, train.txt, val.txt." in source.warnings("train")  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", ["splits/{}.txt", "{}Images.txt", "ImageSets/Main/{}_list.lst"])
def test_lists_may_be_in_folders_and_have_longer_names(tmp_path: Path, name: str) -> None:
    write_lists(sidecar(tmp_path, 5), name=name)
    assert count_images(tmp_path) == {"train": 3, "validation": 1, "test": 1}


def test_files_that_list_other_things_are_no_lists(tmp_path: Path) -> None:
    write_lists(sidecar(tmp_path, 5), "flower {}")
    (tmp_path / "0.txt").rename(tmp_path / "test 0.txt")
    (tmp_path / "0.png").rename(tmp_path / "test 0.png")
    source = open_source(str(tmp_path))
    assert count_images(tmp_path) == {"train": 5}
    (note,) = source.warnings("train")  # type: ignore[attr-defined]
    assert note.startswith("test.txt, train.txt, val.txt may list the images of splits, which is not read")


def test_lists_that_disagree_or_leave_out_images_are_reported(tmp_path: Path) -> None:
    write_lists(sidecar(tmp_path, 5), lists={"train": ["0", "1", "2"], "test": ["2", "3"]})
    listing = open_source(str(tmp_path)).get_listing("train")  # type: ignore[attr-defined]
    assert listing.problems == ["train.txt lists 2.png, but test.txt lists it, too."]
    assert listing.notes[-1] == "1 rows without a split are left out, because others are for training."


def test_lists_are_not_read_if_folders_give_the_splits(tmp_path: Path) -> None:
    for folder in ("train", "test"):
        sidecar(tmp_path / folder, 2)
    (tmp_path / "test.txt").write_text("train/0.png\n")
    source = open_source(str(tmp_path))
    assert count_images(tmp_path) == {"train": 2, "test": 2}
    assert source.warnings("train") == [  # type: ignore[attr-defined]
        "Not read, because the splits are given otherwise: test.txt."
    ]


def test_a_column_of_flags_is_reported(tmp_path: Path) -> None:
    write_images(tmp_path, "0.png", "1.png")
    (tmp_path / "x.csv").write_text("image,caption,is_test\n0.png,a,0\n1.png,b,1\n")
    (note,) = open_source(str(tmp_path)).warnings("train")  # type: ignore[attr-defined]
    assert note.startswith(f"The column 'is_test' of {tmp_path / 'x.csv'} may tell the splits, and is not read")

"""Splits: found by the hub's keywords as whole words."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from sample_data import sidecar, write_images

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
        (["a", "b", "test"], {"train": 2, "test": 1}),
        (["latest", "contest"], {"train": 2}),
    ],
)
def test_all_folders_of_one_split_are_used_together(tmp_path: Path, folders: list[str], counts: dict[str, int]) -> None:
    for folder in folders:
        sidecar(tmp_path / folder, 1)
    source = open_source(str(tmp_path))
    assert {split: source.count_images(split) for split in source.splits()} == counts
    files = [name for split in source.splits() for name in source.rows(split).files or ()]
    assert sorted(files) == sorted(f"{folder}/0.png" for folder in folders), "names are relative to the data set"


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

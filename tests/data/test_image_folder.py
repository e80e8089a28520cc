"""Folders of images with metadata: what is read, what is refused, and what is told."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY_NETWORKS, real_data, settings
from PIL import Image
from safetensors.torch import load_file
from sample_data import write_folder, write_picture

from stackflower.data.opening import open_source
from stackflower.data.prepared import prepare
from stackflower.data.source import Rows
from stackflower.data.sources.folder import FolderSource
from stackflower.errors import DataError


def test_a_folder_with_json_lines_is_read(good: Path) -> None:
    source = FolderSource(path=str(good))
    data = prepare(source, "train", 32)
    assert data.images.shape == (12, 32, 32, 3) and data.images.dtype == torch.uint8
    assert [len(captions) for captions in data.captions] == [1, 6] * 6
    assert data.labels is not None and data.labels.tolist() == [n % 3 for n in range(12)]
    assert data.rows.class_names[2] == "class 2" and source.splits() == ["train"]


def test_csv_metadata_in_folders_of_splits_are_read(tmp_path: Path) -> None:
    for split in ("train", "val"):
        write_picture(tmp_path / split / "deep" / "a b.png")
        (tmp_path / split / "metadata.csv").write_text(
            'file_name,text,label\n"deep/a b.png","[""red"", ""rot""]",4\n', encoding="utf-8-sig"
        )
    source = FolderSource(path=str(tmp_path))
    assert source.splits() == ["train", "validation"]
    assert source.rows("validation") == Rows(captions=[["red", "rot"]], labels=[4], files=["val/deep/a b.png"])


def test_metadata_beside_the_folders_of_splits_are_divided_among_them(stackflower, tmp_path: Path) -> None:
    """One file for all splits, as Hugging Face's ImageFolder allows."""
    names = [f"{folder}/{number}.png" for folder in ("train", "val", "test") for number in range(3)]
    for name in names:
        write_picture(tmp_path / name)
    rows = [{"file_name": name.replace("/", "\\"), "text": f"flower {name}"} for name in names]
    written = tmp_path / "metadata.jsonl"
    written.write_text("\n".join(map(json.dumps, rows)))
    source = FolderSource(path=str(tmp_path))
    assert source.splits() == ["train", "validation", "test"]
    assert source.check() == ([], [f"{split}: 3 images, 3 captions." for split in source.splits()])
    for split, folder in (("train", "train"), ("validation", "val"), ("test", "test")):
        assert source.rows(split).files == [f"{folder}/{number}.png" for number in range(3)]
        assert source.rows(split).captions == [[f"flower {folder}/{number}.png"] for number in range(3)]
    before = source.fingerprint("test")
    written.write_text("\n".join(map(json.dumps, [*rows[:-1], {**rows[-1], "text": "another"}])))
    assert FolderSource(path=str(tmp_path)).fingerprint("test") != before
    write_picture(tmp_path / "more" / "9.png")
    written.write_text("\n".join(map(json.dumps, [*rows[1:], {"file_name": "more/9.png", "text": "a rose"}])))
    said = stackflower("data", "check", tmp_path, code=2).output
    assert "names more/9.png, which is outside the split folders (train, val, test)" in said and "1 problem." in said
    assert "1 images in" in said and "have no row and are not used (train/0.png)" in said
    (tmp_path / "train" / "metadata.jsonl").write_text(json.dumps({"file_name": "0.png", "text": "its own"}))
    (tmp_path / "val" / "metadata.jsonl").write_text(json.dumps({"file_name": "0.png", "text": "its own"}))
    said = stackflower("data", "check", tmp_path, code=2).output
    assert "names more/9.png, which is outside the split folders (train, val, test)" in said and "1 problem." in said
    source = FolderSource(path=str(tmp_path), skip_bad=True)
    assert dict(zip(source.rows("train").files, source.rows("train").captions, strict=True)) == {
        "train/0.png": ["its own"],
        "train/1.png": ["flower train/1.png"],
        "train/2.png": ["flower train/2.png"],
    }
    assert source.rows("validation").captions[0] == ["flower val/0.png", "its own"], "both are used"
    assert len(source.rows("test")) == 3


def test_a_broken_line_of_the_metadata_of_all_splits_counts_once(stackflower, tmp_path: Path) -> None:
    names = [f"{folder}/{number}.png" for folder in ("train", "val", "test") for number in range(2)]
    for name in names:
        write_picture(tmp_path / name)
    rows = [json.dumps({"file_name": name, "text": "a flower"}) for name in names]
    (tmp_path / "metadata.jsonl").write_text(
        "\n".join([*rows, "{", json.dumps({"file_name": "gone.png", "text": "a"})])
    )
    (tmp_path / "metadata.csv").write_text("file_name,text\ntrain/0.png,another\n")
    said = stackflower("data", "check", tmp_path, code=2).output
    assert "2 problems." in said and said.count("metadata.csv is not used, because metadata.jsonl is beside it.") == 1


def test_a_test_folder_stays_test_where_images_outside_of_it_are_for_training(stackflower, tmp_path: Path) -> None:
    for name in ("0.png", "test/1.png"):
        write_picture(tmp_path / name)
        (tmp_path / name).with_suffix(".txt").write_text("a flower")
    said = stackflower("data", "check", tmp_path).output
    assert "train: 1 images, 1 captions." in said and "test: 1 images, 1 captions." in said
    source = open_source(str(tmp_path))
    assert source.rows("train").files == ["0.png"] and source.rows("test").files == ["test/1.png"]
    write_folder(tmp_path, [{"file_name": name, "text": "a flower"} for name in ("0.png", "test/1.png")])
    write_folder(tmp_path / "test", [{"file_name": "1.png", "text": "another"}])
    said = stackflower("data", "check", tmp_path).output
    assert "train: 1 images, 1 captions." in said and "test: 1 images, 2 captions." in said
    (tmp_path / "metadata.jsonl").unlink()
    source = FolderSource(path=str(tmp_path))
    assert source.splits() == ["train"] and source.rows("train").files == ["test/1.png"], "the only images with rows"
    assert "1 images in" in source.warnings("train")[0] and "not used (0.png)" in source.warnings("train")[0]


def test_a_drawn_validation_split_follows_the_metadata_it_is_drawn_from(tmp_path: Path) -> None:
    """Also where those beside the folders, of the test split, stay as they are."""
    for name in [f"train/{number}.png" for number in range(8)] + ["test/0.png"]:
        write_picture(tmp_path / name)
    write_folder(tmp_path, [{"file_name": "test/0.png", "text": "a flower"}])
    for count in (8, 4):
        write_folder(tmp_path / "train", [{"file_name": f"{n}.png", "text": f"{count} {n}"} for n in range(count)])
        source = FolderSource(path=str(tmp_path), held_out=0.5, skip_bad=True)
        both = [prepare(source, split, 16).rows for split in ("train", "validation")]
        assert sorted(name for rows in both for name in rows.files) == [f"train/{n}.png" for n in range(count)]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"file_name": "gone.jpg", "text": "a"}, "names gone.jpg, which does not exist"),
        ({"file_name": "1.jpg", "text": "a", "label": 2}, "gives 1.jpg another class than metadata.jsonl, line 2."),
        ({"text": "a"}, 'has no "file_name"'),
        ({"file_name": "99.jpg"}, "has no caption."),
        ({"file_name": "99.jpg", "text": []}, "has no caption."),
        ({"file_name": "99.jpg", "text": "   "}, "has no caption."),
        ({"file_name": "99.jpg", "text": "N/A"}, "has no caption."),
        ({"file_name": "99.jpg", "text": None}, "has no caption."),
        ({"file_name": "99.jpg", "text": ["fine", ""]}, "has an empty caption"),
        ({"file_name": "99.jpg", "text": "petal " * 10_000}, "has a caption of 10,000 words"),
        ({"file_name": "99.jpg", "text": "a", "label": ["rose"]}, "has the label ['rose']"),
        ({"file_name": "99.jpg", "text": "a", "label": -1}, "has the label -1"),
        ({"file_name": "99.jpg", "text": "a", "label": True}, "has the label True"),
        ({"file_name": "99.jpg", "text": {"a": 1}}, 'has no caption: "text" must be a string or a list of strings'),
        ([1, 2], "is not a JSON object"),
    ],
)
def test_rows_that_cannot_be_used_are_named_with_their_line(stackflower, good: Path, row: object, message: str) -> None:
    write_picture(good / "99.jpg")
    with (good / "metadata.jsonl").open("a", encoding="utf-8") as lines:
        lines.write(json.dumps(row) + "\nnot json\n")
    for command in (["data", "check", good], ["train", "--data", good, "--images", 8, "--out", "run"]):
        out = stackflower(*command, code=2).output
        assert f"line 13 {message}" in out and "line 14 is not JSON" in out


def test_a_folder_without_metadata_names_what_is_there(stackflower, tmp_path: Path) -> None:
    write_picture(tmp_path / "bare" / "1.png")
    (tmp_path / "bare" / "metadata.json").write_text("{}")
    out = stackflower("train", "--data", tmp_path / "bare", code=2).output
    assert "bare has no captions. Add a metadata.jsonl with rows such as" in out
    assert "a table such as captions.csv, or a text file beside each image." in out
    (tmp_path / "bare" / "metadata.json").write_text('[{"file_name": "1.png", "text": "a flower"}]')
    assert "train: 1 images, 1 captions." in stackflower("data", "check", tmp_path / "bare").output
    (tmp_path / "bare" / "1.png").unlink()
    (tmp_path / "bare" / "metadata.json").unlink()
    (tmp_path / "bare" / "notes.doc").write_text("?")
    out = stackflower("train", "--data", tmp_path / "bare", code=2).output
    assert "bare contains no readable images, tables or shards. Contents: notes.doc." in out


def test_a_picture_without_a_row_is_warned_of(stackflower, good: Path) -> None:
    write_picture(good / "orphan.png")
    out = stackflower("train", "--data", good, "--images", 8, "--out", "run", *TINY_NETWORKS).output
    assert "1 images in" in out and "orphan.png" in out
    assert "orphan.png" in stackflower("data", "check", good).output


def test_own_data_can_be_trained_on_sampled_from_and_scored(stackflower, good: Path, tmp_path: Path) -> None:
    """Several captions an image, in several scripts, through every command."""
    small = settings("generator.resolution=16", "generator.channels=4", "discriminator.channels=4")
    held_out = settings("data.held_out=0.5")
    options = [*small, *held_out, "--batch-size", 4, *settings("train.captions_averaged=4")]
    stackflower("train", "--data", good, "--images", 16, "--out", "run", *options)
    before = load_file("run/generator.safetensors")
    stackflower("train", "--resume", "run", "--images", 24)
    after = load_file("run/generator.safetensors")
    assert any(not torch.equal(before[name], after[name]) for name in before), "it learned"
    stackflower("sample", "run", "红色的花", "گل سرخ", "--out", "drawn")
    drawn = [np.asarray(Image.open(path)) for path in sorted((tmp_path / "drawn").glob("*.png"))]
    assert [image.shape for image in drawn] == [(16, 16, 3)] * 2 and (drawn[0] != drawn[1]).any()
    classifier = ("--resolution", 16, "--network", "plain", "--epochs", 1)
    stackflower("train-classifier", "--data", good, "--out", "c.safetensors", *classifier, *held_out)
    judge = ("--extractor", "domain", "--weights", "c.safetensors", "--split", "validation", "--splits", 1)
    scores = json.loads(stackflower("eval", "run", *judge, "--metrics", "fid,is", "--json").stdout)
    assert scores["frechet_distance"] > 0 and 1 <= scores["inception_score_mean"] <= 3, "of three classes"


def test_real_anime_faces_are_an_image_folder() -> None:
    rows = FolderSource(path=str(real_data() / "anime-faces-64")).rows("train")
    assert len(rows) == 12_000 and all("hair" in captions[0] for captions in rows.captions)


def test_a_folder_that_does_not_exist_is_a_data_error(tmp_path: Path) -> None:
    with pytest.raises(DataError):
        FolderSource(path=str(tmp_path / "none"))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"attributes": "red"}, "has the attributes 'red'"),
        ({"mentioned_attributes": [["colour"], []]}, "not a list of attribute names for each of its 1 captions"),
        ({"mentioned_attributes": ["colour"]}, "not a list of attribute names"),
    ],
)
def test_columns_that_cannot_be_used_are_named(stackflower, good: Path, row: dict, message: str) -> None:
    write_picture(good / "99.jpg")
    with (good / "metadata.jsonl").open("a", encoding="utf-8") as lines:
        lines.write(json.dumps({"file_name": "99.jpg", "text": "a", "label": 1} | row) + "\n")
    assert message in stackflower("data", "check", good, code=2).output


def test_labels_of_some_rows_only_are_told(good: Path) -> None:
    write_picture(good / "99.jpg")
    with (good / "metadata.jsonl").open("a", encoding="utf-8") as lines:
        lines.write('{"file_name": "99.jpg", "text": "a"}\n')
    (warning,) = FolderSource(path=str(good)).warnings("train")
    assert "12 of 13 rows" in warning and "negative caption" in warning

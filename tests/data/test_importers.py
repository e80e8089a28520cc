"""Layouts of other projects: StackGAN's and AttnGAN's pickles, and a competition's."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from conftest import TINY_NETWORKS, settings
from sample_data import data_frame, write_images

from stackflower.data.opening import open_source, source_part
from stackflower.errors import ComponentError


def stackgan(root: Path, attngan: bool = False) -> Path:
    """StackGAN's folder in small: three images for training and one for the test."""
    for split, names in (("train", ["1.Bird/a", "1.Bird/b", "2.Bird/c"]), ("test", ["3.Bird/d"])):
        (root / split).mkdir(parents=True)
        (root / split / "filenames.pickle").write_bytes(pickle.dumps(names, 0))
        classes = np.array([int(name[0]) for name in names])
        (root / split / "class_info.pickle").write_bytes(pickle.dumps(classes.tolist() if attngan else classes, 2))
        write_images(root / "images", *(f"{name}.jpg" for name in names))
        for name in names:
            if not attngan:
                (root / "text" / name).parent.mkdir(parents=True, exist_ok=True)
                (root / "text" / f"{name}.txt").write_text(f"bird {name}\nsmall\n")
    if attngan:
        words = {0: "<end>", 1: "a", 2: "red", 3: "bird"}
        train, test = [[1, 2, 3], [1, 3]] * 3, [[2, 3], [3]]
        (root / "captions.pickle").write_bytes(pickle.dumps([train, test, words, {w: n for n, w in words.items()}], 2))
    return root


@pytest.mark.parametrize("attngan", [False, True])
def test_folders_of_stackgan_and_attngan_are_read(tmp_path: Path, stackflower, attngan: bool) -> None:
    root = stackgan(tmp_path / "birds", attngan)
    assert source_part(str(root))["name"] == "stackgan"
    source = open_source(str(root))
    rows = source.rows("train")
    assert rows.labels == [1, 1, 2] and source.rows("test").labels == [3]
    assert rows.captions[0] == (["a red bird", "a bird"] if attngan else ["bird 1.Bird/a", "small"])
    assert source.rows("test").captions == ([["red bird", "bird"]] if attngan else [["bird 3.Bird/d", "small"]])
    stackflower("train", "--data", root, "--images", 8, "--out", "run", *TINY_NETWORKS)
    (root / "images" / "1.Bird" / "a.jpg").unlink()
    assert "names 1.Bird/a, but no image file has this name" in stackflower("data", "check", root, code=2).output
    (root / "train" / "filenames.pickle").write_bytes(pickle.dumps({"a": 1}))
    assert "is not a list of names" in stackflower("data", "check", root, code=2).output


def test_the_data_of_the_competition_are_read(tmp_path: Path, stackflower) -> None:
    root = write_images(tmp_path / "data", "102flowers/image_1.jpg", "102flowers/image_2.jpg")
    # as pandas 1 and 2 pickle a table, without pandas
    (root / "text2ImgData.pkl").write_bytes(
        data_frame(
            {
                "Captions": [[["9", "7", "1"], ["7"]], [["9"]]],
                "ImagePath": ["./102flowers/image_1.jpg", "./102flowers/image_2.jpg"],
            }
        )
    )
    (root / "dictionary").mkdir()
    np.save(root / "dictionary" / "id2Word.npy", np.array([["1", "<PAD>"], ["7", "flower"], ["9", "red"]]))
    assert source_part(str(root))["name"] == "reverse-image-caption"
    assert open_source(str(root)).rows("train").captions == [["red flower", "flower"], ["red"]]
    source = open_source(str(root), {"held_out": 0.5})
    assert source.splits() == ["train", "validation"] and [len(source.rows(split)) for split in source.splits()] == [
        1,
        1,
    ]
    np.save(root / "dictionary" / "id2Word.npy", np.array([["1", "<PAD>"], ["7", "flower"]]))
    assert "has a word '9' that is not in the dictionary" in stackflower("data", "check", root, code=2).output


def test_a_validation_split_is_drawn_by_seed(tmp_path: Path, stackflower) -> None:
    root = write_images(tmp_path / "data", *(f"{number}.jpg" for number in range(20)))
    (root / "metadata.jsonl").write_text(
        "\n".join(json.dumps({"file_name": f"{n}.jpg", "text": f"flower {n}"}) for n in range(20))
    )
    drawn = [open_source(str(root), {"held_out": 0.2, "seed": seed}) for seed in (0, 0, 1)]
    held = [set(source.rows("validation").files or ()) for source in drawn]
    assert held[0] == held[1] != held[2] and len(held[0]) == 4
    assert held[0] | set(drawn[0].rows("train").files or ()) == {f"{number}.jpg" for number in range(20)}
    said = stackflower("data", "info", root, *settings("data.held_out=0.2")).output
    assert "train: {'images': 16" in said and "validation: {'images': 4" in said
    (root / "validation").mkdir()
    (root / "train").mkdir()
    for part in ("train", "validation"):
        write_images(root / part, "x.jpg")
        (root / part / "metadata.jsonl").write_text('{"file_name": "x.jpg", "text": "a"}')
    assert (
        "already has a validation split"
        in stackflower("data", "check", root, *settings("data.held_out=0.2"), code=2).output
    )
    with pytest.raises(ComponentError):
        open_source(str(root), {"held_out": 1.5})

"""Files of captions beside images or in a parallel folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from sample_data import count_images, read_captions, write_images

from stackflower.data.opening import open_source
from stackflower.errors import DataError


def write_texts(root: Path, texts: dict[str, str]) -> Path:
    for name, text in texts.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


@pytest.mark.parametrize(
    ("images", "texts", "shown"),
    [
        (["1.jpg", "2.jpg"], {"1.txt": "0 0.5 0.4\n", "2.txt": "1 0.2 0.1\n", "classes.txt": "rose"}, "0 0.5 0.4"),
        (["train/images/1.jpg"], {"train/labels/1.txt": "2 1e-3 0.4\n", "README.roboflow.txt": "boxes"}, "2 1e-3 0.4"),
        (["1.jpg", "2.jpg"], {"1.txt": "7", "2.txt": ""}, "7"),
    ],
)
def test_text_files_of_numbers_hold_no_captions(
    tmp_path: Path, images: list[str], texts: dict[str, str], shown: str
) -> None:
    write_texts(write_images(tmp_path, *images), texts)
    with pytest.raises(DataError, match=rf"hold numbers such as '{shown}', perhaps boxes, not captions"):
        read_captions(tmp_path)
    assert open_source(str(tmp_path), layout="images").count_images("train") == len(images)


def test_a_caption_may_be_a_number(tmp_path: Path) -> None:
    write_texts(write_images(tmp_path, "1.jpg", "2.jpg"), {"1.txt": "2023", "2.txt": "a flower"})
    assert read_captions(tmp_path) == [["2023"], ["a flower"]]


@pytest.mark.parametrize("folder", ["captions", "text", "TXT"])
def test_captions_are_preferred_to_labels(tmp_path: Path, folder: str) -> None:
    texts = {f"{folder}/{number}.txt": "a flower" for number in "12"}
    write_texts(write_images(tmp_path, "images/1.jpg", "images/2.jpg"), texts | {"labels/1.txt": "0 0.5 0.4"})
    assert read_captions(tmp_path) == [["a flower"]] * 2
    assert open_source(str(tmp_path)).warnings("train") == [  # type: ignore[attr-defined]
        "1 text files are not read, such as labels/1.txt, because others hold the captions."
    ]


def test_masks_of_captioned_images_are_left_out(tmp_path: Path) -> None:
    write_images(tmp_path, "1.jpg", "1-masklabel.png", "2.jpg", "2_mask.png", "3-mask.png")
    write_texts(tmp_path, {"1.txt": "a flower", "2.txt": "a rose", "3-mask.txt": "a mask"})
    source = open_source(str(tmp_path))
    assert source.rows("train").files == ["1.jpg", "2.jpg", "3-mask.png"]
    assert source.warnings("train") == [  # type: ignore[attr-defined]
        "2 images are masks and are not used (1-masklabel.png, 2_mask.png)."
    ]


@pytest.mark.parametrize("name", ["README.dataset.txt", "readme.txt", "LICENCE-CC.txt", "Licenses.txt", "classes.txt"])
def test_other_text_files_are_no_captions(tmp_path: Path, name: str) -> None:
    write_texts(write_images(tmp_path, "1.jpg"), {"1.txt": "a flower", name: "something"})
    assert open_source(str(tmp_path)).check() == ([], ["train: 1 images, 1 captions."])
    assert count_images(tmp_path) == {"train": 1}


@pytest.mark.parametrize(
    "name",
    ["{}.json", "{}.jpg.json", "{}.jpg.supplemental-metadata.json", "{}.jpg.supplemental-me.json", "{}.jpg.s.json"],
)
def test_captions_may_be_in_a_json_file_beside_each_image(tmp_path: Path, name: str) -> None:
    write_images(tmp_path, "train/1.jpg", "train/2.jpg", "val/3.jpg")
    for image in ("train/1", "train/2", "val/3"):
        row = {"title": f"{image}.jpg", "description": f"flower {image}", "label": len(image), "views": "3"}
        write_texts(tmp_path, {name.format(image): json.dumps(row)})
    write_texts(tmp_path, {"train/metadata.json": '{"title": "an album"}'})
    source = open_source(str(tmp_path))
    assert source.rows("train").captions == [["flower train/1"], ["flower train/2"]]
    assert source.rows("validation").captions == [["flower val/3"]] and source.rows("train").labels == [7, 7]


def test_a_json_file_that_holds_no_caption_is_reported(tmp_path: Path) -> None:
    names = [f"{number}.jpg" for number in range(4)]
    texts = ['{"caption": "a flower"}', '{"caption": ""}', "[1]", '{"shapes": []}']
    write_texts(write_images(tmp_path, *names), {f"{number}.json": text for number, text in enumerate(texts)})
    source = open_source(str(tmp_path), {"skip_bad": True})
    assert source.rows("train").captions == [["a flower"]]
    assert sorted(source.left_out("train")) == [
        "1.jpg has no caption.",
        "2.jpg has no readable captions: 2.json is not a JSON object.",
        "3.jpg has no caption.",
    ]


def test_json_files_without_captions_are_not_recognised(tmp_path: Path) -> None:
    write_texts(write_images(tmp_path, "1.jpg"), {"1.json": '{"shapes": [], "imagePath": "1.jpg"}'})
    assert not open_source(str(tmp_path)).is_captioned
    write_texts(tmp_path, {"1.txt": "a flower"})
    assert read_captions(tmp_path) == [["a flower"]], "text files come first"


def test_a_split_without_captions_is_left_out_unless_it_is_for_training(tmp_path: Path) -> None:
    write_images(tmp_path, "train/1.jpg", "test/2.jpg", "test/3.jpg")
    write_texts(tmp_path, {"train/1.txt": "a flower"})
    source = open_source(str(tmp_path))
    assert count_images(tmp_path) == {"train": 1}
    assert source.warnings("train") == [f"The test split of {tmp_path} has no captions and is left out."]  # type: ignore[attr-defined]
    write_texts(tmp_path, {"test/2.txt": "a rose"})
    listing = open_source(str(tmp_path)).get_listing("train")  # type: ignore[attr-defined]
    assert listing.problems == ["test/3.jpg has no 3.txt beside it."]
    (tmp_path / "train" / "1.txt").unlink()
    assert open_source(str(tmp_path)).get_listing("train").problems[0] == "train/1.jpg has no caption."  # type: ignore[attr-defined]

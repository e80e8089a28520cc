"""The layouts of data sets that people have, each recognised by looking at the folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import TINY_NETWORKS, real_data
from sample_data import birds, oxford, picture

from stackflower.data.opening import open_source, source_part
from stackflower.data.prepared import prepare
from stackflower.errors import DataError


def test_oxford_102_is_recognised_and_read_in_each_of_its_splits(tmp_path: Path, stackflower) -> None:
    root = oxford(tmp_path / "flowers")
    assert source_part(str(root)) == {"name": "oxford-102", "path": str(root)}
    source = open_source(str(root))
    assert [len(source.rows(split)) for split in ("train", "validation", "test")] == [10, 5, 15]
    rows = source.rows("test")
    assert rows.captions[0] == ["flower 1", "of class 1"] and rows.labels == list(range(1, 16))
    assert (
        rows.class_names == {1: "pink primrose"} and rows.files is not None and rows.files[2] == "jpg/image_00003.jpg"
    )
    classes = open_source(str(root), {"split": "classes"})
    seen, unseen = (set(classes.rows(split).labels or ()) for split in ("train", "test"))
    assert len(unseen) == 20 and len(seen) == 5 and not seen & unseen
    random = open_source(str(root), {"split": "random"})
    files = [set(random.rows(split).files or ()) for split in ("train", "validation", "test")]
    assert [len(each) for each in files] == [24, 3, 3] and len(set.union(*files)) == 30
    assert "Oxford-102" in stackflower("data", "check", root).output
    stackflower("train", "--data", root, "--images", 8, "--out", "run", *TINY_NETWORKS)

    (root / "jpg" / "image_00030.jpg").unlink()
    (root / "text_c10" / "class_00001" / "image_00001.txt").unlink()
    said = stackflower("data", "check", root, code=2).output
    assert "1 of the 30 images are missing in" in said and "jpg/image_00001.jpg has no readable captions" in said
    (root / "setid.mat").write_bytes(b"damaged")
    with pytest.raises(DataError, match="is not the file of Oxford-102"):
        open_source(str(root)).rows("train")


def test_cub_200_is_recognised_and_cropped_to_its_boxes(tmp_path: Path, stackflower) -> None:
    root = birds(tmp_path / "CUB_200_2011")
    assert source_part(str(root))["name"] == "cub-200"
    source = open_source(str(root))
    rows = source.rows("train")
    assert (
        rows.labels == [1, 2]
        and rows.class_names == {1: "Bird 1", 2: "Bird 2"}
        and rows.captions[0] == ["a white bird", "white"]
    )
    near, whole, tight = (
        prepare(open_source(str(root), {"box": box}), "train", 30).images[0].float().mean() / 255 for box in (1.5, 0, 1)
    )
    assert float(tight) > 0.95 and float(near) == pytest.approx(1 / 1.5**2, abs=0.05) and float(whole) < 0.1
    listed = [open_source(str(root), {"split": "classes", "seed": seed}).get_listing for seed in range(9)]
    for listing in listed:
        seen, unseen = ({row["label"] for row in listing(split).rows} for split in ("train", "test"))
        assert not seen & unseen and seen | unseen == {1, 2, 200}
    assert len({frozenset(row["label"] for row in listing("test").rows) for listing in listed}) > 1, "drawn by the seed"
    stackflower("train", "--data", root, "--images", 8, "--out", "run", *TINY_NETWORKS)
    (root / "bounding_boxes.txt").write_text("1 500 500 10 10\n2 a b c d\n")
    assert "image 2 has the box 'a b c d'" in stackflower("data", "check", root, code=2).output
    (root / "bounding_boxes.txt").write_text("1 500 500 10 10\n")
    said = stackflower("data", "check", root, code=2).output
    assert "1.jpg" in said and "lies outside the image" in said
    (tmp_path / "text_c10").rename(tmp_path / "elsewhere")
    assert "unpack text_c10" in stackflower("data", "check", root, code=2).output


def test_images_with_a_text_beside_each_are_recognised_and_read(tmp_path: Path, stackflower) -> None:
    for split, count in (("train", 6), ("val", 2)):
        for number in range(count):
            picture(tmp_path / "data" / split / f"{number}.PNG")
            (tmp_path / "data" / split / f"{number}.txt").write_text(f"\ufeffflower {number}\r\n\r\nred ; round\r\n")
    source = open_source(str(tmp_path / "data"))
    assert source_part(str(tmp_path / "data"))["name"] == "sidecar" and source.splits() == ["train", "validation"]
    assert source.rows("train").captions[3] == ["flower 3", "red ; round"] and len(source.rows("validation")) == 2
    tags = open_source(str(tmp_path / "data"), {"separator": ";"}).rows("train").captions[3]
    assert tags == ["flower 3, red, round"]
    stackflower("train", "--data", "data", "--images", 8, "--out", "run", *TINY_NETWORKS)
    (tmp_path / "data/train/0.txt").unlink()
    (tmp_path / "data/train/lonely.txt").write_text("x")
    (tmp_path / "data/train/1.txt").write_bytes(b"\xff\xfe\xff")
    (tmp_path / "data/train/2.txt").write_text("\n \n")
    said = stackflower("data", "check", "data", code=2).output
    for problem in (
        "0.PNG has no 0.txt",
        "lonely.txt has no image",
        "1.txt is not a text file in UTF-16",
        "2.PNG has no caption",
    ):
        assert problem in said
    assert len(open_source(str(tmp_path / "data"), {"skip_bad": True}).rows("train")) == 3


def test_coco_captions_are_recognised_and_read(tmp_path: Path, stackflower) -> None:
    root = tmp_path / "coco"
    for part, count in (("train2017", 5), ("val2017", 2)):
        images = [{"id": 10 + number, "file_name": f"{number:012d}.jpg"} for number in range(count)]
        for one in images:
            picture(root / part / one["file_name"])
        texts = [
            {"image_id": one["id"], "caption": f"number {one['id']}{end}"} for end in ("", " again") for one in images
        ]
        (root / "annotations").mkdir(exist_ok=True)
        picture(root / part / "silent.jpg")
        silent_image = {"id": 99, "file_name": "silent.jpg"}
        found = {"images": [*images, silent_image], "annotations": texts}
        (root / "annotations" / f"captions_{part}.json").write_text(json.dumps(found))
    source = open_source(str(root))
    assert source_part(str(root))["name"] == "coco" and source.splits() == ["train", "validation"]
    assert source.rows("train").captions[1] == ["number 11", "number 11 again"] and source.rows("train").labels is None
    said = stackflower("data", "check", root).output
    assert "2 images in" in said and "are not used (train2017/silent.jpg, val2017/silent.jpg)" in said
    (root / "train2017" / "000000000003.jpg").unlink()
    assert "image 13 names 000000000003.jpg, which does not exist" in stackflower("data", "check", root, code=2).output
    (root / "annotations" / "captions_val2017.json").write_text('{"images": 3}')
    assert "is not a caption file of COCO" in stackflower("data", "check", root, code=2).output


def write_annotations(root: Path, name: str, folder: str, rejected: bool = False, key: str = "caption") -> Path:
    """COCO's form: two images in a folder, each with a caption; if `rejected`, also one that is not to be used."""
    images = [{"id": number, "file_name": f"{folder}_{number}.jpg"} for number in range(2)]
    texts = [{"image_id": one["id"], key: f"flower {one['id']}"} for one in images]
    texts += [{"image_id": 0, key: "too dark", "is_rejected": True}] * rejected
    for one in images:
        picture(root / folder / str(one["file_name"]))
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(json.dumps({"info": {}, "images": images} | ({"annotations": texts} if key else {})))
    return root


@pytest.mark.parametrize("name", ["annotations/{}.json", "captions_{}.json", "{}/_annotations.coco.json", "my_{}.json"])
def test_files_in_the_form_of_coco_are_recognised_by_their_contents(tmp_path: Path, name: str) -> None:
    for split in ("train", "val"):
        write_annotations(tmp_path, name.format(split), split, rejected=True)
    write_annotations(tmp_path, name.format("test"), "test", key="")
    source = open_source(str(tmp_path))
    assert source_part(str(tmp_path))["name"] == "coco" and source.splits() == ["train", "validation"]
    assert source.rows("train").captions == source.rows("validation").captions == [["flower 0"], ["flower 1"]]
    notes = source.warnings("train")  # type: ignore[attr-defined]
    assert "2 captions are marked as rejected and are left out." in notes
    assert any(f"such as {name.format('test')}, which has no annotations." in note for note in notes)


@pytest.mark.parametrize("name", ["annotations/instances_train2017.json", "captions_train.json"])
def test_boxes_in_the_form_of_coco_are_no_captions(tmp_path: Path, stackflower, name: str) -> None:
    write_annotations(tmp_path / "data", name, "train2017", key="bbox")
    said = stackflower("data", "check", "data", code=2).output
    assert f"{name} has annotations such as boxes, but no captions." in said
    write_annotations(tmp_path / "data", "captions_val.json", "val2017")
    assert open_source(str(tmp_path / "data")).rows("train").captions == [["flower 0"], ["flower 1"]]


def test_real_oxford_102_as_downloaded_equals_its_other_form() -> None:
    """In the form that people download and in another, labels, class names, captions and images agree."""
    raw, other = open_source(str(real_data() / "oxford-102-raw")), open_source(str(real_data() / "flowers-96"))
    known = {}
    for split in other.splits():
        rows, images = other.rows(split), prepare(other, split, 32).images
        assert rows.files is not None and rows.labels is not None
        for number, file in enumerate(rows.files):
            known[Path(file).name] = (
                rows.captions[number],
                rows.labels[number],
                rows.class_names[rows.labels[number]],
                images[number],
            )
    checked = 0
    for split in raw.splits():
        rows, images = raw.rows(split), prepare(raw, split, 32).images
        assert rows.files is not None and rows.labels is not None
        for number, file in enumerate(rows.files):
            captions, label, name, image = known[file.removeprefix("jpg/")]
            assert rows.labels[number] == label and rows.class_names[label] == name
            assert set(captions) <= set(rows.captions[number]), "of ten captions, the other form has six"
            assert float((images[number].float() - image.float()).abs().mean()) < 12
            checked += 1
    assert checked == 72


@pytest.mark.parametrize("name", ["flowers-96", "flowers-288-wds", "anime-faces-64", "oxford-102-raw"])
def test_real_data_are_recognised(name: str) -> None:
    part = source_part(str(real_data() / name))
    assert part is not None
    assert part["name"] == {"flowers-288-wds": "shards", "oxford-102-raw": "oxford-102"}.get(name, "folder")

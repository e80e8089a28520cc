"""Nothing of a data set is lost, there twice or of another split without a word."""

from __future__ import annotations

import io
import json
import pickle
import shutil
import signal
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import TINY_NETWORKS, settings
from safetensors import SafetensorError
from safetensors.numpy import save_file
from test_hostile_data import jpeg
from test_layouts import picture

from stackflower.data import prepared
from stackflower.data.opening import open_source, source_part
from stackflower.data.shard_locations import expand_braces
from stackflower.data.sources.stream import ShardStream
from stackflower.errors import ConfigError, DataError
from stackflower.text.encoders.multi_hot import MultiHotEncoder
from stackflower.text.encoders.precomputed import PrecomputedEncoder
from stackflower.utils.atomic import RESUME_ADVICE, reporting_write_errors


def sidecar(root: Path, count: int = 6) -> Path:
    for number in range(count):
        picture(root / f"{number}.png")
        (root / f"{number}.txt").write_text(f"flower {number}")
    return root


def shard(path: Path, *names: str) -> Path:
    """A shard of these images, each with a text."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name in names:
            for ending, content in ((name, jpeg()), (f"{Path(name).stem}.txt", b"a flower")):
                member = tarfile.TarInfo(ending)
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return path


# ---- prepare

INTERRUPTED = """
import os, signal, sys
from stackflower.data import prepared
without = prepared._without
def then_killed(*given):
    without(*given)
    os.kill(os.getpid(), signal.SIGKILL)
prepared._without = then_killed
from stackflower.cli import main
main(sys.argv[1:])
"""


def test_killed_after_images_were_left_out(tmp_path: Path, stackflower) -> None:
    root = sidecar(tmp_path / "data")
    (root / "3.png").write_bytes((root / "3.png").read_bytes()[:40])
    command = ["data", "prepare", "data", "out", "--size", "16", "--on-error", "skip"]
    killed = subprocess.run([sys.executable, "-c", INTERRUPTED, *command], cwd=tmp_path, capture_output=True)
    assert killed.returncode == -signal.SIGKILL
    stackflower(*command)
    images = np.load(tmp_path / "out" / "train" / "images.npy")
    assert len(images) == 5 and (images.max((1, 2, 3)) > 0).all()


def test_a_full_disk_is_told(tmp_path: Path, stackflower, monkeypatch: pytest.MonkeyPatch) -> None:
    sidecar(tmp_path / "data")

    def full(*given: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.posix_fallocate", full)
        said = stackflower("data", "prepare", "data", "out", "--size", 16, code=2).output
    assert "No space left on device" in said and "Free some disk space and rerun" in said
    stackflower("data", "prepare", "data", "out", "--size", 16)


def test_a_folder_of_the_users_beside_ours_is_kept(tmp_path: Path, stackflower) -> None:
    sidecar(tmp_path / "data")
    (tmp_path / "out" / ".train-notes").mkdir(parents=True)
    assert ".train-notes" in stackflower("data", "prepare", "data", "out", "--size", 16, code=2).output
    assert (tmp_path / "out" / ".train-notes").exists()


def test_a_damaged_prepared_folder_is_refused(tmp_path: Path, stackflower) -> None:
    root = tmp_path / "data"
    for number in range(4):
        picture(root / f"{number}.png")
    rows = [{"file_name": f"{number}.png", "text": "a", "label": number} for number in range(4)]
    (root / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    stackflower("data", "prepare", "data", "out", "--size", 16)
    file = tmp_path / "out" / "train" / "rows.jsonl"
    whole = file.read_text()
    damage = {
        whole.replace('"label": 0', '"label": "0"'): "has the label '0'",
        whole[: whole.rindex("{")]: "images and rows differ in number",
        whole[:-5]: "ends in the middle of a line",
        whole.replace('"label": 0', f'"label": {10**30}'): "a label must be a whole number",
        whole.replace('"file_name": "0.png"', '"file_name": 5'): "does not name its file",
        "[]\n" * 4: "is damaged",
        whole.replace('"text": ["a"]', '"text": []'): "has no caption",
    }
    for text, why in damage.items():
        file.write_text(text)
        assert why in stackflower("data", "check", "out", code=2).output


# ---- layouts


def coco(root: Path, images: list[dict[str, Any]], year: int = 2017) -> Path:
    (root / "annotations").mkdir(parents=True, exist_ok=True)
    for one in images:
        picture(root / f"train{year}" / one["file_name"])
    found = {"images": images, "annotations": [{"image_id": n, "caption": "a"} for n in {one["id"] for one in images}]}
    (root / "annotations" / f"captions_train{year}.json").write_text(json.dumps(found))
    return root


def test_a_file_that_is_listed_twice(tmp_path: Path, stackflower) -> None:
    coco(tmp_path / "coco", [{"id": n, "file_name": f"{min(n, 1)}.png"} for n in range(3)])
    assert "image 2 names 1.png a second time" in stackflower("data", "check", "coco", code=2).output
    coco(tmp_path / "ids", [{"id": 0, "file_name": "0.png"}, {"id": 0, "file_name": "1.png"}])
    assert "lists the image 0 several times" in stackflower("data", "check", "ids", code=2).output
    root = tmp_path / "birds"
    (root / "train").mkdir(parents=True)
    (root / "train" / "filenames.pickle").write_bytes(pickle.dumps(["c/0", "c/1", "c/1"]))
    for number in range(2):
        picture(root / "images" / "c" / f"{number}.png")
        (root / "text" / "c").mkdir(parents=True, exist_ok=True)
        (root / "text" / "c" / f"{number}.txt").write_text("a bird")
    assert "entry 3 names images/c/1.png a second time" in stackflower("data", "check", "birds", code=2).output


def test_annotations_of_another_year_are_named(tmp_path: Path, stackflower) -> None:
    root = coco(tmp_path / "coco", [{"id": 0, "file_name": "0.png"}], 2014)
    coco(root, [{"id": 0, "file_name": "0.png"}], 2017)
    assert "captions_train2017.json is beside captions_train2014.json" in stackflower("data", "check", "coco").output


def test_folders_of_splits_in_capitals_and_images_outside_of_them(tmp_path: Path, stackflower) -> None:
    root = tmp_path / "data"
    for folder in ("Train", "TEST", "val", "valid", "."):
        sidecar(root / folder, 2)
    source = open_source(str(root))
    assert source.splits() == ["train", "validation", "test"]
    assert [len(source.rows(split)) for split in source.splits()] == [2, 2, 2]
    assert "4 images in " in stackflower("data", "check", "data").output, "of valid/, and beside the folders"


def test_zip_archives_of_other_programs(tmp_path: Path) -> None:
    root = sidecar(tmp_path / "data", 2)
    for name, prefix in (("windows.zip", "{}\\"), ("dots.zip", "./{}/")):
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            for split in ("train", "test"):
                for file in root.iterdir():
                    archive.write(file, prefix.format(split) + file.name)
        assert open_source(str(tmp_path / name)).splits() == ["train", "test"]


def test_a_tar_file_that_ends_with_a_zip_archive(tmp_path: Path) -> None:
    root = sidecar(tmp_path / "data", 1)
    with zipfile.ZipFile(root / "zz.zip", "w") as archive:
        archive.write(root / "0.png", "9.png")
        archive.writestr("9.txt", "another")
    with tarfile.open(tmp_path / "data.tar", "w") as tar:
        for name in ("0.png", "0.txt", "zz.zip"):
            tar.add(root / name, f"data/{name}")
    source = open_source(str(tmp_path / "data.tar"), layout="sidecar")
    assert source.rows("train").captions == [["flower 0"]]


def test_lines_of_a_table_without_a_caption(tmp_path: Path, stackflower) -> None:
    for number in range(2):
        picture(tmp_path / "data" / f"{number}.png")
    (tmp_path / "data" / "x.csv").write_text("image,caption\n0.png,a\n0.png\n1.png,b\n")
    assert "1 lines of x.csv have no caption, the first: line 3" in stackflower("data", "check", "data").output


def test_classes_of_a_test_split_do_not_collide(tmp_path: Path) -> None:
    for split, label in (("train", "0"), ("test", "rose")):
        picture(tmp_path / "data" / f"{split}.png")
        (tmp_path / "data" / f"{split}.csv").write_text(f"image,caption,class\n{split}.png,a,{label}\n")
    source = open_source(str(tmp_path / "data"))
    assert source.rows("train").labels == [0]
    with pytest.raises(DataError, match="has the label 'rose'"):
        source.rows("test")


def test_a_class_of_two_names(tmp_path: Path, stackflower) -> None:
    root, rows = tmp_path / "data", []
    for number, name in enumerate(("rose", "iris")):
        picture(root / f"{number}.png")
        rows.append(json.dumps({"file_name": f"{number}.png", "text": "a", "label": 1, "class_name": name}))
    (root / "metadata.jsonl").write_text("\n".join(rows))
    assert "names the class 1 'rose' and 'iris'" in stackflower("data", "check", "data").output


@pytest.mark.parametrize("label", ["--5", "5-", "٣", "1e3"])
def test_labels_that_are_almost_numbers(tmp_path: Path, stackflower, label: str) -> None:
    picture(tmp_path / "data" / "0.png")
    (tmp_path / "data" / "metadata.csv").write_text(f"file_name,text,label\n0.png,a,{label}\n", encoding="utf-8")
    stackflower("data", "check", "data", code=0 if label == "٣" else 2)


@pytest.mark.parametrize("row", [{"class_name": "\ud800", "label": 1}, {"attributes": {"a": "\ud800"}}])
def test_half_of_a_surrogate_pair_out_of_captions(tmp_path: Path, stackflower, row: dict[str, Any]) -> None:
    picture(tmp_path / "data" / "0.png")
    (tmp_path / "data" / "metadata.jsonl").write_text(json.dumps({"file_name": "0.png", "text": "a", **row}))
    assert "half of a surrogate pair" in stackflower("data", "check", "data", code=2).output


def test_a_name_that_is_not_utf_8_is_left_out_by_name(tmp_path: Path, stackflower) -> None:
    root = sidecar(tmp_path / "data", 2)
    try:
        with open(bytes(root) + b"/\xff.png", "wb") as file:
            file.write(jpeg())
    except OSError:
        pytest.skip("this file system has no such names")
    stackflower("data", "prepare", "data", "out", "--size", 16, "--on-error", "skip")
    assert "\\xff.png has a name that is not UTF-8" in (tmp_path / "out" / "left-out.txt").read_text()


# ---- shards


def test_half_a_shard_of_a_killed_command_is_removed(tmp_path: Path, stackflower) -> None:
    sidecar(tmp_path / "data")
    command = ["data", "shard", "data", "out", "--per-shard", 2]
    stackflower(*command)
    whole = (tmp_path / "out" / "train-000001.tar").read_bytes()
    about = (tmp_path / "out" / "index.json").read_bytes()
    shutil.rmtree(tmp_path / "out")
    program = (
        "import os, signal, sys\n"
        "from stackflower.data import sharding as shard\n"
        "one = shard._Samples.row\n"
        "def row(self, number):\n"
        "    if number == 3: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return one(self, number)\n"
        "shard._Samples.row = row\n"
        "from stackflower.cli import main\n"
        "main(sys.argv[1:])\n"
    )
    subprocess.run([sys.executable, "-c", program, *map(str, command)], cwd=tmp_path, capture_output=True)
    left = [path.name for path in (tmp_path / "out").iterdir()]
    assert len(left) == 3 and "train-000000.tar" in left
    assert [Path(name).name for name in open_source(str(tmp_path / "out" / "*.tar")).shards["train"]] == [
        "train-000000.tar"
    ]
    stackflower(*command)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "index.json",
        *(f"train-{number:06d}.tar" for number in range(3)),
    ]
    assert (tmp_path / "out" / "train-000001.tar").read_bytes() == whole
    assert (tmp_path / "out" / "index.json").read_bytes() == about


def test_splits_of_shards_by_folder_and_in_capitals(tmp_path: Path, stackflower) -> None:
    for folder, count in (("train", 3), ("test", 2)):
        shard(tmp_path / "data" / folder / "00000.tar", *(f"{n}.jpg" for n in range(count)))
        shard(tmp_path / "flat" / f"{folder.capitalize()}-0.tar", *(f"{n}.jpg" for n in range(count)))
    shard(tmp_path / "data" / "more" / "00000.tar", "0.jpg")
    for value in ("data", "data/{train,test}/00000.tar", "data/t*/*.tar", "flat"):
        source = open_source(str(tmp_path / value))
        assert [len(source.rows(split)) for split in source.splits()] == [3, 2]
    assert "1 tar files in " in stackflower("data", "check", "data").output


def test_a_pattern_that_names_a_shard_twice(tmp_path: Path) -> None:
    for number in range(2):
        shard(tmp_path / f"train-{number}.tar", "0.jpg")
    for prefix in ("", "file://"):
        source = open_source(f"{prefix}{tmp_path}/{{train-0,train-*}}.tar")
        assert isinstance(source, ShardStream) and source.count("train") == [1, 1]


def test_shards_of_two_images_a_key_or_of_two_tar_files(tmp_path: Path, stackflower) -> None:
    shard(tmp_path / "two" / "train-0.tar", "1.jpg", "1.png")
    assert "train-0.tar/1 has two images" in stackflower("data", "check", "two", code=2).output
    one = shard(tmp_path / "train-0.tar", "1.jpg").read_bytes()
    (tmp_path / "both").mkdir()
    (tmp_path / "both" / "train-0.tar").write_bytes(one + shard(tmp_path / "train-1.tar", "2.jpg").read_bytes())
    assert "continues after its end mark" in stackflower("data", "check", "both", code=2).output


def test_links_to_shards_elsewhere(tmp_path: Path, stackflower) -> None:
    shard(tmp_path / "elsewhere.tar", "1.jpg")
    shard(tmp_path / "data" / "train-0.tar", "2.jpg")
    (tmp_path / "data" / "train-1.tar").symlink_to(tmp_path / "elsewhere.tar")
    (tmp_path / "data" / "train-2.tar").symlink_to(tmp_path / "data" / "train-0.tar")
    for value in ("data", "data/*.tar"):
        said = stackflower("data", "check", value, code=2).output
        assert "train-1.tar is a link out of the folder" in said and "follow_links=true" in said
        stackflower("data", "check", value, *settings("data.follow_links=true"))


def test_a_folder_of_links_is_recognised(tmp_path: Path, stackflower) -> None:
    sidecar(tmp_path / "elsewhere", 2)
    (tmp_path / "data").mkdir()
    for file in (tmp_path / "elsewhere").iterdir():
        (tmp_path / "data" / file.name).symlink_to(file)
    assert "is a link out of the folder" in stackflower("data", "check", "data", code=2).output
    said = stackflower("data", "check", "data", *settings("data.follow_links=true")).output
    assert "images with a text file beside each" in said and "train: 2 images" in said


@pytest.mark.parametrize(
    "told", [f'{{"train-0.tar": {{"samples": {n}}}}}' for n in ("Infinity", "-3", '"1"', "true")] + ["[" * 100_000]
)
def test_an_index_that_tells_nonsense(tmp_path: Path, told: str) -> None:
    shard(tmp_path / "train-0.tar", "1.jpg")
    (tmp_path / "index.json").write_text(told)
    source = open_source(f"file://{tmp_path}/train-0.tar")
    assert isinstance(source, ShardStream)
    with pytest.raises(DataError, match="does not give the samples"):
        source.count("train")


def test_a_stream_of_nothing(tmp_path: Path, stackflower) -> None:
    shard(tmp_path / "train-0.tar", "1.jpg")
    (tmp_path / "index.json").write_text('{"train-0.tar": {"samples": 0}}')
    said = stackflower(
        "train", "--data", f"file://{tmp_path}/train-0.tar", "--images", 8, *TINY_NETWORKS, code=2
    ).output
    assert "hold no images that can be used" in said


@pytest.mark.parametrize("pattern", ["{0..99999999999999999999}.tar", "{a,b}" * 30 + ".tar", "9" * 5000 + ".tar"])
def test_patterns_without_end(tmp_path: Path, stackflower, pattern: str) -> None:
    said = stackflower("data", "check", pattern, code=2).output
    assert ("names more than 1,000,000 files" if "{" in pattern else "can't be opened") in said
    assert expand_braces("{7..7}.tar") == ["7.tar"] and source_part("synthetic-flowers") is not None


# ---- embeddings


def test_embeddings_that_are_no_such_thing(tmp_path: Path, stackflower) -> None:
    (tmp_path / "x.txt").write_text("a\nb\n")
    np.save(tmp_path / "x.npy", np.full((2, 3), 1e300))
    with pytest.raises(DataError, match="not finite"):
        PrecomputedEncoder(path=str(tmp_path / "x.npy")).encode(["a"])
    for captions in ('"ab"', "[" * 100_000):
        save_file({"x": np.ones((2, 3), np.float32)}, tmp_path / "x.safetensors", {"captions": captions})
        with pytest.raises(DataError, match="must hold exactly one tensor of embeddings"):
            PrecomputedEncoder(path=str(tmp_path / "x.safetensors")).encode(["a"])
    (tmp_path / "c.jsonl").write_text('{"text": 5}\n')
    np.save(tmp_path / "x.npy", np.ones((1, 3)))
    with pytest.raises(DataError, match="neither a string nor a list"):
        PrecomputedEncoder(path=str(tmp_path / "x.npy"), captions=str(tmp_path / "c.jsonl")).encode(["a"])
    (tmp_path / "filenames.pickle").write_bytes(pickle.dumps([""]))
    (tmp_path / "text").mkdir()
    with pytest.raises(DataError, match="has no captions of"):
        PrecomputedEncoder(path=str(tmp_path / "x.npy"), captions=str(tmp_path / "text")).encode(["a"])
    with pytest.raises(ConfigError, match=r"text\.separator is empty"):
        MultiHotEncoder(separator="")


@pytest.mark.parametrize("out", ["e.safetensors", "e.npy"])
def test_what_embed_writes_is_read_back(tmp_path: Path, stackflower, out: str) -> None:
    """All captions of a data set, several an image."""
    rows = []
    for number in range(8):
        picture(tmp_path / "data" / f"{number}.png")
        rows.append(json.dumps({"file_name": f"{number}.png", "text": [f"flower {number}", f"bloom {number}"]}))
    (tmp_path / "data" / "metadata.jsonl").write_text("\n".join(rows))
    stackflower("embed", "--captions", "data/metadata.jsonl", "--text", "ngram", "--out", out)
    captions = [] if out == "e.safetensors" else ["text.captions=data/metadata.jsonl"]
    text = ["--text", "precomputed", *settings(f"text.path={out}", *captions)]
    stackflower("train", "--data", "data", "--images", 8, "--out", "run", *TINY_NETWORKS, *text)


def test_two_preparations_into_one_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that waited for another of other data says so."""
    one, other = (open_source(str(sidecar(tmp_path / name, count))) for name, count in (("one", 2), ("other", 3)))
    lock = prepared.FileLock

    def waits(path: Path) -> Any:
        monkeypatch.undo()
        prepared.prepare_into(one, "train", 16, tmp_path / "out")
        return lock(path)

    monkeypatch.setattr(prepared, "FileLock", waits)
    with pytest.raises(DataError, match="holds other data"):
        prepared.prepare_into(other, "train", 16, tmp_path / "out")


# ---- files that can't be written


@pytest.mark.parametrize(
    ("error", "reason"),
    [(OSError(28, "No space left on device", "x"), "No space left on device"), (SafetensorError("torn."), "torn")],
)
def test_what_cannot_be_written_is_one_sentence(error: Exception, reason: str) -> None:
    with pytest.raises(DataError) as caught, reporting_write_errors("a/b.json", DataError, RESUME_ADVICE):
        raise error
    advice = "Free some disk space and rerun; it resumes where it stopped."
    assert str(caught.value) == f"a/b.json can't be written: {reason}. {advice}"

"""`data shard` writes what it reads, and resumes where it stopped."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import posix, settings
from sample_data import birds, jpeg, sidecar

from stackflower.data.opening import open_source
from stackflower.data.prepared import prepare


def test_data_shard_writes_what_it_reads(tmp_path: Path, stackflower) -> None:
    source = tmp_path / "flowers"
    (source / "val").mkdir(parents=True)
    (source / "train").mkdir()
    for split, count in (("train", 7), ("val", 2)):
        rows = []
        for number in range(count):
            (source / split / f"{number}.jpg").write_bytes(jpeg())
            rows.append(
                {
                    "file_name": f"{number}.jpg",
                    "text": ["a", f"f {number}"],
                    "label": number,
                    "class_name": f"c{number}",
                    "attributes": {"x": "y"},
                }
            )
        (source / split / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    said = stackflower("data", "shard", "flowers", "shards", "--per-shard", 3).output
    assert "train: 7 images in 3 shards" in said and "train-{000000..000002}.tar" in said
    one, other = open_source(str(source)), open_source(str(tmp_path / "shards"))
    for split in ("train", "validation"):
        a, b = one.rows(split), other.rows(split)
        assert (a.captions, a.labels, a.class_names, a.attributes) == (
            b.captions,
            b.labels,
            b.class_names,
            b.attributes,
        )
    stored = one.get_listing("train").files.read("train/4.jpg")  # type: ignore[attr-defined]
    assert stored == other.get_listing("train").files.read("train-000001.tar/000000004")  # type: ignore[attr-defined]
    assert json.loads((tmp_path / "shards" / "index.json").read_text())["train-000002.tar"]["samples"] == 1
    before = {path.name: path.read_bytes() for path in (tmp_path / "shards").iterdir()}
    assert (
        "already exists and is not empty"
        in stackflower("data", "shard", "flowers", "shards", "--per-shard", 3, code=2).output
    )
    stackflower("data", "shard", "flowers", "again", "--per-shard", 3)
    assert {path.name: path.read_bytes() for path in (tmp_path / "again").iterdir()} == before
    (source / "train" / "5.jpg").write_bytes(b"no image")
    assert "5.jpg can't be read as an image" in stackflower("data", "shard", "flowers", "bad", code=2).output
    assert "train: 6 images" in stackflower("data", "shard", "flowers", "bad", "--on-error", "skip").output
    assert "as in --size 76" in stackflower("data", "shard", "synthetic-flowers", "drawn", code=2).output
    small = settings("data.count=5", "data.validation=2", "data.test=2")
    stackflower("data", "shard", "synthetic-flowers", "drawn", "--size", 20, *small)
    drawn = open_source(str(tmp_path / "drawn"))
    assert len(drawn.rows("train")) == 5 and drawn.rows("train").mentioned_attributes is not None


def test_data_shard_resumes_where_it_stopped(tmp_path: Path, stackflower, monkeypatch: pytest.MonkeyPatch) -> None:
    from stackflower.data import sharding as shard

    source = tmp_path / "flowers"
    source.mkdir()
    for number in range(6):
        (source / f"{number}.jpg").write_bytes(jpeg())
    (source / "metadata.jsonl").write_text(
        "\n".join(json.dumps({"file_name": f"{n}.jpg", "text": "a"}) for n in range(6))
    )
    write, written = shard._write_shard, list[str]()

    def stops(path: Path, *given: Any) -> None:
        if len(written) == 2:
            raise OSError("No space left on device")
        written.append(path.name)
        write(path, *given)

    monkeypatch.setattr(shard, "_write_shard", stops)
    assert (
        "it resumes where it stopped"
        in stackflower("data", "shard", "flowers", "shards", "--per-shard", 2, code=2).output
    )
    monkeypatch.setattr(shard, "_write_shard", lambda path, *given: (written.append(path.name), write(path, *given)))
    stackflower("data", "shard", "flowers", "shards", "--per-shard", 2)
    assert written == ["train-000000.tar", "train-000001.tar", "train-000002.tar"]
    assert "No problems" in stackflower("data", "check", "shards").output


@posix
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


def test_images_that_a_source_crops_are_not_copied_whole(tmp_path: Path, stackflower) -> None:
    root = birds(tmp_path / "CUB_200_2011")
    assert "as in --size 76" in stackflower("data", "shard", root, "shards", code=2).output
    stackflower("data", "shard", root, "shards", "--size", 32)
    one, other = (prepare(open_source(str(path)), "train", 32).images for path in (root, tmp_path / "shards"))
    assert torch.equal(torch.as_tensor(one), torch.as_tensor(other))

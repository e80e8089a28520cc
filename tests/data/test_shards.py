"""WebDataset shards that are prepared."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
from conftest import TINY_NETWORKS
from PIL import Image

from stackflower.data.sources.shards import ShardSource
from stackflower.errors import DataError


def write_shard(path: Path, samples: dict[str, dict[str, bytes]]) -> None:
    with tarfile.open(path, "w") as shard:
        for key, files in samples.items():
            for suffix, content in files.items():
                member = tarfile.TarInfo(f"{key}.{suffix}")
                member.size = len(content)
                shard.addfile(member, io.BytesIO(content))


def jpeg(colour: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (90, 70), colour).save(buffer, "JPEG")
    return buffer.getvalue()


def test_shards_are_read_where_they_lie(tmp_path: Path) -> None:
    row = json.dumps({"text": ["a red flower", "red"], "label": 3, "class_name": "rose"}).encode()
    write_shard(tmp_path / "train-000.tar", {"a": {"jpg": jpeg("red"), "json": row}})
    write_shard(tmp_path / "train-001.tar", {"sub/b": {"jpg": jpeg("blue"), "json": row.replace(b"3", b"4")}})
    write_shard(tmp_path / "val-000.tar", {"c": {"png": jpeg("green"), "txt": b"a green flower\na leaf\n"}})
    source = ShardSource(path=str(tmp_path))
    assert source.splits() == ["train", "validation"]
    rows = source.rows("train")
    assert rows.captions == [["a red flower", "red"]] * 2 and rows.labels == [3, 4] and rows.class_names[3] == "rose"
    assert source.rows("validation").captions == [["a green flower", "a leaf"]]
    images = np.zeros((2, 32, 32, 3), np.uint8)
    assert source.fill("train", images, lambda done: None) == {}
    assert images[0].mean((0, 1)).argmax() == 0 and images[1].mean((0, 1)).argmax() == 2
    both = ShardSource(path=str(tmp_path / "train-{000..001}.tar"))
    assert len(both.rows("train")) == 2 and both.splits() == ["train"]
    with pytest.raises(DataError, match=r"names 6 files that don't exist, such as train-002\.tar"):
        ShardSource(path=str(tmp_path / "train-{000..007}.tar"))
    copied = tmp_path / "elsewhere"
    shutil.copytree(tmp_path, copied, ignore=shutil.ignore_patterns("elsewhere"))
    copy = ShardSource(path=str(copied))
    assert copy.fingerprint("train") == source.fingerprint("train")
    assert copy.check() == (
        [],
        ["train: 2 images, 4 captions.", "validation: 1 images, 2 captions."],
    )
    edited = (copied / "train-001.tar").read_bytes().replace(b"a red flower", b"a bad flower")
    (copied / "train-001.tar").write_bytes(edited)
    assert ShardSource(path=str(copied)).fingerprint("train") != source.fingerprint("train")


def test_bad_shards_are_told(tmp_path: Path, stackflower) -> None:
    good = {"jpg": jpeg("red"), "txt": b"a red flower"}
    write_shard(
        tmp_path / "train-000.tar",
        {"a": good, "b": {"jpg": jpeg("red")}, "c": {"txt": b"x"}, "d": {**good, "json": b"{"}},
    )
    output = stackflower("train", "--data", str(tmp_path), *TINY_NETWORKS, code=2).output
    assert "train-000.tar/b has no caption" in output and "c has captions but no image" in output
    assert "d has a JSON file that is not JSON" in output and "data.skip_bad=true" in output
    source = ShardSource(path=str(tmp_path), skip_bad=True)
    assert source.rows("train").captions == [["a red flower"]] and "3 rows of " in source.warnings("train")[0]
    (tmp_path / "train-001.tar").write_bytes(b"no tar file at all")
    assert "can't be read as a tar file" in stackflower("train", "--data", str(tmp_path), *TINY_NETWORKS, code=2).output

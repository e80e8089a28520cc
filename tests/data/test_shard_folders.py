"""Folders and patterns of shards: splits, links, and names that come twice."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import TINY_NETWORKS, settings, symlink
from sample_data import shard, sidecar

from stackflower.data.opening import open_source, source_part
from stackflower.data.shard_locations import expand_braces
from stackflower.data.sources.stream import ShardStream
from stackflower.errors import DataError


def test_splits_of_shards_are_recognised_by_folder_and_in_capitals(tmp_path: Path, stackflower) -> None:
    for folder, count in (("train", 3), ("test", 2)):
        shard(tmp_path / "data" / folder / "00000.tar", *(f"{n}.jpg" for n in range(count)))
        shard(tmp_path / "flat" / f"{folder.capitalize()}-0.tar", *(f"{n}.jpg" for n in range(count)))
    shard(tmp_path / "data" / "more" / "00000.tar", "0.jpg")
    for value in ("data", "data/{train,test}/00000.tar", "data/t*/*.tar", "flat"):
        source = open_source(str(tmp_path / value))
        assert [len(source.rows(split)) for split in source.splits()] == [3, 2]
    assert "1 tar files in " in stackflower("data", "check", "data").output


def test_a_shard_that_a_pattern_names_twice_counts_once(tmp_path: Path) -> None:
    for number in range(2):
        shard(tmp_path / f"train-{number}.tar", "0.jpg")
    for prefix in ("", "file://"):
        source = open_source(f"{prefix}{tmp_path}/{{train-0,train-*}}.tar")
        assert isinstance(source, ShardStream) and source.count("train") == [1, 1]


def test_shards_with_two_images_a_key_or_two_tar_files_are_refused(tmp_path: Path, stackflower) -> None:
    shard(tmp_path / "two" / "train-0.tar", "1.jpg", "1.png")
    assert "train-0.tar/1 has two images" in stackflower("data", "check", "two", code=2).output
    one = shard(tmp_path / "train-0.tar", "1.jpg").read_bytes()
    (tmp_path / "both").mkdir()
    (tmp_path / "both" / "train-0.tar").write_bytes(one + shard(tmp_path / "train-1.tar", "2.jpg").read_bytes())
    assert "continues after its end mark" in stackflower("data", "check", "both", code=2).output


def test_links_to_shards_elsewhere_are_followed_only_when_asked(tmp_path: Path, stackflower) -> None:
    shard(tmp_path / "elsewhere.tar", "1.jpg")
    shard(tmp_path / "data" / "train-0.tar", "2.jpg")
    symlink(tmp_path / "data" / "train-1.tar", tmp_path / "elsewhere.tar")
    symlink(tmp_path / "data" / "train-2.tar", tmp_path / "data" / "train-0.tar")
    for value in ("data", "data/*.tar"):
        said = stackflower("data", "check", value, code=2).output
        assert "train-1.tar is a link out of the folder" in said and "follow_links=true" in said
        stackflower("data", "check", value, *settings("data.follow_links=true"))


def test_a_folder_of_links_is_recognised(tmp_path: Path, stackflower) -> None:
    sidecar(tmp_path / "elsewhere", 2)
    (tmp_path / "data").mkdir()
    for file in (tmp_path / "elsewhere").iterdir():
        symlink(tmp_path / "data" / file.name, file)
    assert "is a link out of the folder" in stackflower("data", "check", "data", code=2).output
    said = stackflower("data", "check", "data", *settings("data.follow_links=true")).output
    assert "images with a text file beside each" in said and "train: 2 images" in said


@pytest.mark.parametrize(
    "told", [f'{{"train-0.tar": {{"samples": {n}}}}}' for n in ("Infinity", "-3", '"1"', "true")] + ["[" * 100_000]
)
def test_an_index_of_impossible_counts_is_refused(tmp_path: Path, told: str) -> None:
    shard(tmp_path / "train-0.tar", "1.jpg")
    (tmp_path / "index.json").write_text(told)
    source = open_source(f"file://{tmp_path}/train-0.tar")
    assert isinstance(source, ShardStream)
    with pytest.raises(DataError, match="does not give the number of samples"):
        source.count("train")


def test_a_stream_without_samples_is_refused(tmp_path: Path, stackflower) -> None:
    shard(tmp_path / "train-0.tar", "1.jpg")
    (tmp_path / "index.json").write_text('{"train-0.tar": {"samples": 0}}')
    said = stackflower(
        "train", "--data", f"file://{tmp_path}/train-0.tar", "--images", 8, *TINY_NETWORKS, code=2
    ).output
    assert "hold no usable images" in said


@pytest.mark.parametrize("pattern", ["{0..99999999999999999999}.tar", "{a,b}" * 30 + ".tar", "9" * 5000 + ".tar"])
def test_patterns_of_too_many_names_are_refused(tmp_path: Path, stackflower, pattern: str) -> None:
    said = stackflower("data", "check", pattern, code=2).output
    assert ("names more than 1,000,000 files" if "{" in pattern else "can't be opened") in said
    assert expand_braces("{7..7}.tar") == ["7.tar"] and source_part("synthetic-flowers") is not None

"""Shards elsewhere: patterns, copies of them, and splits."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from running import STREAM_FLAGS, same_weights
from sample_data import COUNTS, write_shards

from stackflower.data import remote
from stackflower.data.opening import open_source, source_part
from stackflower.data.shard_locations import expand_braces
from stackflower.data.sources.stream import ShardReader, ShardStream
from stackflower.errors import DataError


def test_shards_elsewhere_are_fetched_and_train_as_local_ones(
    tmp_path: Path, stackflower, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "shards"
    write_shards(folder)
    url = f"file://{folder}/train-{{000..006}}.tar"
    assert source_part(url) == {"name": "stream", "path": url}
    stackflower("train", "--data", str(folder / "train-{000..006}.tar"), "--out", "near", *STREAM_FLAGS)
    stackflower("train", "--data", url, "--out", "far", *STREAM_FLAGS)
    same_weights(tmp_path / "near", tmp_path / "far")
    (folder / "index.json").write_text(
        json.dumps({f"train-{n:03d}.tar": {"samples": count} for n, count in enumerate(COUNTS)})
    )
    fetched = list[str]()
    fetch = remote._fetch
    monkeypatch.setattr(remote, "_fetch", lambda location, copy: (fetched.append(location), fetch(location, copy)))
    source = open_source(url.replace(str(folder), f"{folder}/../shards"))
    assert isinstance(source, ShardStream)
    assert source.count("train") == list(COUNTS) and [Path(one).name for one in fetched] == ["index.json"]
    with pytest.raises(DataError, match="No shards found"):
        open_source(f"file://{tmp_path}/nowhere/train-{{000..001}}.tar")
    monkeypatch.setenv("STACKFLOWER_CACHE_GIB", "0")
    reader = source.reader("train")
    assert [reader.row(shard, 0)["label"] for shard in range(7)] == [0, 0, 1, 4, 2, 1, 0]
    with pytest.raises(DataError, match="has 5 usable samples, but 6 were counted"):
        ShardReader(source.shards["train"], [6, *COUNTS[1:]]).row(0, 5)
    monkeypatch.setenv("STACKFLOWER_CACHE_GIB", "many")
    with pytest.raises(DataError, match="is not a number of GiB"):
        remote.fetch_file(f"file://{folder}/../shards/../shards/index.json")


def test_patterns_with_braces_are_expanded(tmp_path: Path) -> None:
    assert expand_braces("{a,b}/x-{08..10}.tar") == [
        f"{folder}/x-{n}.tar" for folder in "ab" for n in ("08", "09", "10")
    ]
    assert expand_braces("x-{}{1}.tar") == ["x-{}{1}.tar"]
    with pytest.raises(DataError, match="names more than 1,000,000 files"):
        expand_braces("x-{0..99999}-{0..99999}.tar")
    for folder in "ab":
        write_shards(tmp_path / folder)
    for prefix in ("", "file://"):  # shards of the same names in two folders
        source = open_source(f"{prefix}{tmp_path}/{{a,b}}/train-{{000..006}}.tar")
        assert isinstance(source, ShardStream) and source.count("train") == [*COUNTS, *COUNTS]
        assert len(set(source.get_listing("train").files.names)) == len(source.rows("train")) == 2 * sum(COUNTS)
    with pytest.raises(DataError, match=r"names 2 files that don't exist, such as train-007\.tar"):
        open_source(f"{tmp_path}/{{a,b}}/train-{{000..007}}.tar").splits()


def test_a_validation_split_of_shards_is_drawn(tmp_path: Path) -> None:
    write_shards(tmp_path / "shards")
    source = open_source(str(tmp_path / "shards"), {"held_out": 0.25})
    train, validation = (source.rows(split) for split in ("train", "validation"))
    assert source.splits() == ["train", "validation"] and len(validation) == round(sum(COUNTS) * 0.25)
    assert train.files and validation.files and not set(train.files) & set(validation.files)
    assert len(train) + len(validation) == sum(COUNTS)


def test_shards_elsewhere_that_change_are_fetched_anew(tmp_path: Path) -> None:
    folder = tmp_path / "shards"
    write_shards(folder, (3, 4))
    url = f"file://{folder}/train-{{000..001}}.tar"
    labels = []
    for counts in ((3, 4), (4, 3)):
        write_shards(folder, counts)
        remote._locate_copy.cache_clear()  # as a new process
        source = open_source(url)
        assert isinstance(source, ShardStream) and source.count("train") == list(counts)
        labels.append([source.reader("train").row(1, sample)["label"] for sample in range(counts[1])])
    assert labels == [[3, 4, 0, 1], [4, 0, 1]]

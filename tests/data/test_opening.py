"""Detection of layouts: tables, shards and folders in unusual places, and files that can't be read."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from sample_data import oxford, shard, write_images

from stackflower.data.opening import open_source, source_part
from stackflower.errors import DataError


@pytest.mark.parametrize("name", ["captions.csv", "data/captions.csv", "annotations/captions.jsonl"])
def test_the_only_table_with_captions_is_read(tmp_path: Path, name: str) -> None:
    write_images(tmp_path, "images/0.png", "images/1.png")
    others = {"authors.csv": "name,mail\nx,y\n", "files.csv": "image,link\n0.png,http://x.org/0\n", "p.json": "{}"}
    text = '{"image": "0.png", "caption": "a flower"}' if name.endswith("l") else "image,caption\n0.png,a flower\n"
    for other, content in (*others.items(), (name, text)):
        (tmp_path / other).parent.mkdir(exist_ok=True)
        (tmp_path / other).write_text(content)
    assert source_part(str(tmp_path))["name"] == "table"  # type: ignore[index]
    assert open_source(str(tmp_path)).rows("train").captions == [["a flower"]]


def test_several_tables_with_captions_are_named_in_a_command_that_works(tmp_path: Path, stackflower) -> None:
    root = write_images(tmp_path / "data", "0.png")
    for language in ("de", "fr ch"):
        (root / f"captions {language}.csv").write_text("image,caption\n0.png,a flower\n")
    said = stackflower("data", "check", root, code=2).output
    assert "2 tables hold captions (captions de.csv, captions fr ch.csv)" in said
    flags = shlex.split(re.search(r"; (--format .*) reads the first", said)[1])  # type: ignore[index]
    assert "No problems found" in stackflower("data", "check", root, *flags).output


@pytest.mark.parametrize("name", ["captions.sqlite", "labels.mat", "texts.npy", "a.h5", "descriptions.txt"])
def test_other_files_that_may_hold_captions_are_named(tmp_path: Path, stackflower, name: str) -> None:
    root = write_images(tmp_path / "data", "0.png")
    for other in (name, "README.md", "LICENSE.txt"):
        (root / other).write_bytes(b"x" * 40)
    said = stackflower("data", "check", root, code=2).output
    assert f" {name} can't be read; save captions as CSV." in said


def test_a_folder_that_holds_only_a_folder_is_opened_at_that_one(tmp_path: Path) -> None:
    write_images(tmp_path / "a" / "flowers" / "b", "images/0.png")
    (tmp_path / "a/flowers/b/captions.csv").write_text("image,caption\n0.png,a flower\n")
    source = open_source(str(tmp_path))
    assert source.rows("train").files == ["images/0.png"] and source.rows("train").captions == [["a flower"]]
    write_images(tmp_path / "other" / "train", "rose/0.png", "iris/0.png")
    assert open_source(str(tmp_path / "other")).rows("train").files == ["train/iris/0.png", "train/rose/0.png"]
    oxford(tmp_path / "root" / "flowers-102")
    assert source_part(str(tmp_path / "root"))["name"] == "oxford-102"  # type: ignore[index]
    assert len(open_source(str(tmp_path / "root")).rows("train")) == 10


def test_shards_in_any_folder_are_recognised(tmp_path: Path) -> None:
    shard(tmp_path / "data" / "en" / "00000.tar", "0.jpg")
    shard(tmp_path / ".cache" / "00001.tar", "1.jpg")
    (tmp_path / "README.md").write_text("# Flowers")
    assert source_part(str(tmp_path))["name"] == "shards"  # type: ignore[index]
    assert open_source(str(tmp_path)).rows("train").captions == [["a flower"]]
    write_images(tmp_path, "0.jpg")
    assert source_part(str(tmp_path))["name"] == "images", "an archive beside images"  # type: ignore[index]


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.json", "metadata.jsonl", "a.tar", "captions_train.json"])
def test_pointers_of_git_lfs_are_named(tmp_path: Path, name: str) -> None:
    write_images(tmp_path, "0.png")
    (tmp_path / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 123\n")
    with pytest.raises(DataError, match=rf"{name} is a Git LFS pointer; fetch the file with `git lfs pull`"):
        source = open_source(str(tmp_path), layout="shards" if name == "a.tar" else None)
        source.rows("train")
        raise DataError(source.explain_no_captions())


@pytest.mark.extras
def test_a_parquet_file_may_be_a_pointer_of_git_lfs(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    (tmp_path / "train-00000.parquet").write_text("version https://git-lfs.github.com/spec/v1\nsize 123\n")
    with pytest.raises(DataError, match=r"train-00000\.parquet is a Git LFS pointer"):
        open_source(str(tmp_path)).rows("train")

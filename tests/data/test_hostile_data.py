"""Data that are damaged, or made to do harm: each is refused in a sentence, and nothing is lost silently."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest
from conftest import TINY_NETWORKS, symlink
from sample_data import folder_of_two, jpeg

from stackflower.data.sources.folder import FolderSource
from stackflower.data.sources.shards import ShardSource, read_samples
from stackflower.errors import DataError


def shard(path: Path, count: int = 4) -> bytes:
    with tarfile.open(path, "w") as file:
        for number in range(count):
            for suffix, content in (("jpg", jpeg()), ("txt", f"flower {number}".encode())):
                member = tarfile.TarInfo(f"{number:03d}.{suffix}")
                member.size = len(content)
                file.addfile(member, io.BytesIO(content))
    return path.read_bytes()


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("[" * 200_000 + "]" * 200_000, "is nested too deeply"),
        (
            '{"file_name": "2.jpg", "text": "a", "label": ' + "1" + "0" * 30 + "}",
            "has the label a number of more than 20 digits; a label must be",
        ),
        ('{"file_name": "2.jpg", "text": "a", "label": ' + "9" * 5000 + "}", "is not JSON"),
        ('{"file_name": "2.jpg", "text": "a", "label": -3}', "has the label -3"),
        ('{"file_name": "2.jpg", "text": "a", "label": true}', "a label must be an integer"),
        ('{"file_name": "2.jpg", "text": "a \\ud800 flower"}', "half of a surrogate pair"),
        ('{"file_name": "../outside.jpg", "text": "a"}', "which does not exist"),
        ('{"file_name": "/etc/passwd", "text": "a"}', "which does not exist"),
        ('{"file_name": "2.jpg", "text": "a", "mentioned_attributes": [[{"x": 1}]]}', "mentioned_attributes"),
        ('{"file_name": "2.jpg", "text": "a", "attributes": "red"}', "has the attributes 'red'"),
    ],
)
def test_rows_that_would_do_harm_are_refused(stackflower, tmp_path: Path, row: str, said: str) -> None:
    (tmp_path / "outside.jpg").write_bytes(jpeg())
    data = folder_of_two(tmp_path / "data", row)
    checked = stackflower("data", "check", data, code=2).output
    assert said in checked and "line 2" in checked and len(checked) < 2000
    trained = stackflower("train", "--data", data, "--images", 8, "--out", "run", *TINY_NETWORKS, code=2).output
    assert said in trained
    assert len(FolderSource(path=str(data), skip_bad=True).rows("train")) == 1


def test_a_link_out_of_the_folder_is_followed_only_when_asked(stackflower, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "secret.jpg").write_bytes(jpeg())
    data = folder_of_two(
        tmp_path / "data", '{"file_name": "link.jpg", "text": "a"}', '{"file_name": "near.jpg", "text": "b"}'
    )
    symlink(data / "link.jpg", tmp_path / "elsewhere" / "secret.jpg")
    symlink(data / "near.jpg", data / "2.jpg")
    said = stackflower("data", "check", data, code=2).output
    assert (
        "names link.jpg, which is a link out of the folder; --set data.follow_links=true" in said
        and "near.jpg" not in said
    )
    assert len(FolderSource(path=str(data), follow_links=True).rows("train")) == 3


def list_faults(path: Path) -> list[str]:
    """Return the problems of a shard and of its samples."""
    problems: list[str] = []
    bad = [sample.problem for sample in read_samples(path, problems) if sample.problem]
    return [*problems, *bad]


def test_wherever_a_shard_is_cut_off_it_is_told(tmp_path: Path) -> None:
    whole = shard(tmp_path / "train-000.tar")
    assert not list_faults(tmp_path / "train-000.tar")
    end = len(whole.rstrip(b"\0"))  # within the last member's text
    cut = tmp_path / "cut.tar"
    for length in {*range(0, end, 256), *range(512, end, 512), end}:
        cut.write_bytes(whole[:length])
        try:
            problems = list_faults(cut)
        except DataError:
            continue
        assert problems, f"cut at {length} of {len(whole)}"


def test_a_shard_that_is_cut_off_is_refused(stackflower, tmp_path: Path) -> None:
    whole = shard(tmp_path / "train-000.tar")
    (tmp_path / "train-000.tar").write_bytes(whole[: len(whole.rstrip(b"\0")) * 2 // 3])
    for command in (["data", "check", tmp_path], ["train", "--data", tmp_path, "--images", 8, *TINY_NETWORKS]):
        assert "cut off" in stackflower(*command, code=2).output
    kept = ShardSource(path=str(tmp_path), skip_bad=True)
    assert 0 < len(kept.rows("train")) < 4 and "left out" in " ".join(kept.warnings("train"))


def test_images_without_captions_and_captions_without_images_are_told(stackflower, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "train-000.tar", "w") as file:
        for name, content in (("a.jpg", jpeg()), ("a.txt", b"a flower"), ("b.jpg", jpeg()), ("c.txt", b"lost")):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            file.addfile(member, io.BytesIO(content))
    said = stackflower("data", "check", tmp_path, code=2).output
    assert "b has no caption" in said and "c has captions but no image" in said and "2 problems" in said


@pytest.mark.parametrize(
    "row",
    [
        b"[" * 200_000,
        b'{"text": "a", "label": 1' + b"0" * 30 + b"}",
        b'{"text": "\\udfff"}',
        b'{"text": "a", "attributes": "red"}',
    ],
)
def test_json_in_a_shard_that_would_do_harm_is_refused(stackflower, tmp_path: Path, row: bytes) -> None:
    with tarfile.open(tmp_path / "train-000.tar", "w") as file:
        for name, content in (("a.jpg", jpeg()), ("a.txt", b"a flower"), ("b.jpg", jpeg()), ("b.json", row)):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            file.addfile(member, io.BytesIO(content))
    said = stackflower("data", "check", tmp_path, code=2).output
    assert "train-000.tar/b has" in said and "1 problem." in said


def test_a_folder_of_nothing_but_links_out_of_it_is_refused(stackflower, tmp_path: Path) -> None:
    (tmp_path / "elsewhere.tar").write_bytes(b"")
    (tmp_path / "data").mkdir()
    symlink(tmp_path / "data" / "train-000000.tar", tmp_path / "elsewhere.tar")
    said = stackflower("data", "check", "data", code=2).output
    assert "train-000000.tar is a link out of the folder" in said


@pytest.mark.parametrize("pattern", ["", "/*/*.tar"])
def test_shards_behind_a_link_out_of_the_folder_are_read_only_when_asked(pattern: str, tmp_path: Path) -> None:
    (tmp_path / "data" / "validation").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    for part in ("data/validation", "elsewhere"):
        shard(tmp_path / part / "0.tar")
    symlink(tmp_path / "data" / "train", tmp_path / "elsewhere")
    path = f"{tmp_path / 'data'}{pattern}"
    with pytest.raises(DataError, match="train is a link out of the folder"):
        ShardSource(path=path).rows("train")
    assert len(ShardSource(path=path, follow_links=True).rows("train")) == 4
    # what the user names is followed, and so are links within the folder
    assert len(ShardSource(path=str(tmp_path / "data" / "train")).rows("train")) == 4
    (tmp_path / "data" / "train").unlink()
    symlink(tmp_path / "data" / "train", "validation")
    assert len(ShardSource(path=path).rows("train")) == 4


def test_links_that_go_in_circles_are_not_followed_for_ever(stackflower, tmp_path: Path) -> None:
    data = folder_of_two(tmp_path / "data", '{"file_name": "2.jpg", "text": "b"}')
    symlink(data / "around", data)
    symlink(data / "self.jpg", data / "self.jpg")
    symlink(data / "up", tmp_path)
    for flags in ((), ("--set", "data.follow_links=true")):
        assert "train: 2 images" in stackflower("data", "check", data, *flags).output

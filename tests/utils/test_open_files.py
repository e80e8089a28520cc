"""Few open files suffice for many shards, and too few end in a sentence."""

from __future__ import annotations

import contextlib
import io
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from sample_data import jpeg

from stackflower.data.archives import PartReader, open_files
from stackflower.data.sources.stream import ShardReader, load_index
from stackflower.errors import DataError
from stackflower.utils.open_files import choose_open_count, count_left

resource = pytest.importorskip("resource")
if not Path("/proc/self/fd").is_dir():
    pytest.skip("the system does not list open files", allow_module_level=True)


@pytest.fixture
def limit_left() -> Iterator[object]:
    """A function that leaves this process only so many files to open."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)

    def limit(left: int) -> None:
        with contextlib.ExitStack() as stack:  # the lowest free numbers are those that open files get
            free = [stack.enter_context(open(os.devnull)).fileno() for _ in range(left + 1)]
        resource.setrlimit(resource.RLIMIT_NOFILE, (free[-1], before[1]))
        assert count_left() == left

    yield limit
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def write_shards(folder: Path, count: int) -> list[str]:
    folder.mkdir()
    for number in range(count):
        with tarfile.open(folder / f"{number:03d}.tar", "w") as archive:
            for name, content in (("a.jpg", jpeg()), ("a.txt", f"flower {number}".encode())):
                info = tarfile.TarInfo(name)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    return sorted(map(str, folder.iterdir()))


@pytest.mark.parametrize("left", [8, 20])
def test_many_shards_are_read_with_few_open_files(tmp_path: Path, limit_left, left: int) -> None:
    shards = write_shards(tmp_path / "shards", 40)
    for shard in shards:
        load_index(shard)
    reader = ShardReader(shards, [1] * len(shards))
    limit_left(left)
    for _ in range(2):
        texts = [reader.row(number, 0)["text"] for number in range(len(shards))]
        assert texts == [[f"flower {number}"] for number in range(len(shards))]
        assert reader.image(0, 0, 16).shape == (16, 16, 3)
    left_now = count_left()
    assert left_now is not None and left_now >= left // 2 - 2, "half is left to others"


def test_at_least_one_file_is_kept_open_and_at_most_what_is_of_use(limit_left) -> None:
    limit_left(1)
    assert choose_open_count(64) == 1
    resource.setrlimit(resource.RLIMIT_NOFILE, (1024, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    assert choose_open_count(64) == 64


def test_too_many_open_files_end_in_a_sentence(tmp_path: Path, limit_left) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(b"12")
    files, read_part = open_files(tmp_path), PartReader()
    assert files.names == ["a", "b"] and read_part(tmp_path / "a", 0, 1) == b"1"
    limit_left(0)
    with pytest.raises(DataError, match=r"a can't be read: too many files are open; raise the limit.*ulimit -n"):
        files.read("a")
    assert read_part(tmp_path / "b", 1, 1) == b"2", "the file that was open makes room"
    assert read_part(tmp_path / "b", 0, 1) == b"1"

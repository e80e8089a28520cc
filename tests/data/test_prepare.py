"""`stackflower data prepare`: once, from where it was left, with all that was left out."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import TINY_NETWORKS, posix
from sample_data import jpeg

from stackflower.data import listed
from stackflower.data.opening import open_source, source_part
from stackflower.data.prepared import prepare
from stackflower.data.source import Source


def flowers(root: Path, count: int = 12) -> Path:
    """Photographs of which one is damaged, two are the same, and one has a caption that says nothing."""
    for split, size in (("train", count), ("test", 3)):
        (root / split).mkdir(parents=True)
        rows = []
        for number in range(size):
            (root / split / f"{number}.jpg").write_bytes(jpeg())
            rows.append(
                {
                    "file_name": f"{number}.jpg",
                    "text": [f"a flower number {number}", "round"],
                    "label": number % 3,
                    "class_name": f"kind {number % 3}",
                }
            )
        (root / split / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return root


def spoil(root: Path) -> None:
    (root / "train" / "3.jpg").write_bytes(b"not an image")
    (root / "train" / "5.jpg").write_bytes((root / "train" / "4.jpg").read_bytes())
    (root / "test" / "1.jpg").write_bytes((root / "train" / "4.jpg").read_bytes())
    path = root / "train" / "metadata.jsonl"
    text = (
        path.read_text()
        .replace('"a flower number 7"', '"?!"')
        .replace('"file_name": "9.jpg"', '"file_name": "gone.jpg"')
    )
    path.write_text(text)


def test_a_prepared_folder_is_a_data_set(tmp_path: Path, stackflower) -> None:
    source = flowers(tmp_path / "flowers")
    said = stackflower("data", "prepare", "flowers", "out", "--size", 64)
    assert "flowers is an image folder with metadata: train 12, test 3 images" in said.output
    assert "train: 12 images at 64 px" in said.output and "--data out" in said.output
    assert source_part(str(tmp_path / "out"))["name"] == "prepared"
    one, other = open_source(str(source)), open_source(str(tmp_path / "out"))
    assert other.title() == "flowers" and other.splits() == ["train", "test"]
    for size in (64, 32):
        a, b = (prepare(each, "train", size) for each in (one, other))
        assert a.rows == b.rows
        if size == 64:
            assert np.array_equal(a.images, b.images)
    cache = set(Path(os.environ["STACKFLOWER_CACHE"]).glob("prepared/*"))
    prepare(other, "train", 64)
    assert set(Path(os.environ["STACKFLOWER_CACHE"]).glob("prepared/*")) == cache, "it opens where it lies"
    stackflower("train", "--data", "out", "--images", 8, "--out", "run", *TINY_NETWORKS)
    (tmp_path / "out").rename(tmp_path / "moved")
    stackflower("train", "--resume", "run", "--images", 16, "--data", "moved")
    stackflower("data", "check", "moved")
    (tmp_path / "moved" / "train" / "rows.jsonl").write_text("[]\n")
    assert (
        "is damaged"
        in stackflower("train", "--data", "moved", "--images", 8, "--out", "x", *TINY_NETWORKS, code=2).output
    )


def test_duplicates_and_near_empty_captions_are_told(tmp_path: Path, stackflower) -> None:
    root = flowers(tmp_path / "flowers")
    spoil(root)
    said = stackflower("data", "prepare", "flowers", "out", code=2).output
    assert "line 10 names gone.jpg" in said and not (tmp_path / "out" / "prepared.json").exists()
    said = stackflower("data", "prepare", "flowers", "out", "--on-error", "skip").output
    assert "train: 10 images" in said and "2 rows or images are left out" in said
    assert "1 images are duplicates. The first: train/5.jpg has the same pixels as train/4.jpg" in said
    assert "1 captions are near-empty. The first: train/7.jpg has the caption '?!'" in said
    left_out = (tmp_path / "out" / "left-out.txt").read_text().splitlines()
    assert len(left_out) == 2 and "gone.jpg" in left_out[0] and "3.jpg can't be read as an image" in left_out[1]
    page = (tmp_path / "out" / "summary.html").read_text()
    for part in (
        "kind 2",
        "train/5.jpg has the same pixels as train/4.jpg",
        "gone.jpg",
        "data:image/jpeg;base64",
        "1 images occur in more than one split",
    ):
        assert part in page, part
    assert "<script" not in page and "http" not in page.replace("http-equiv", "")
    assert (
        "10 images" in json.dumps(stackflower("data", "info", "out").output)
        or "'images': 10" in stackflower("data", "info", "out").output
    )


def test_preparing_with_any_number_of_jobs_writes_the_same_bytes(tmp_path: Path, stackflower) -> None:
    flowers(tmp_path / "flowers")
    for out, jobs in (("one", 1), ("two", 4)):
        stackflower("data", "prepare", "flowers", out, "--jobs", jobs)
    files = [path.relative_to(tmp_path / "one") for path in sorted((tmp_path / "one").rglob("*")) if path.is_file()]
    assert len(files) == 12
    assert all((tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes() for file in files)


@posix
@pytest.mark.parametrize("name", ["SIGKILL", "SIGINT"])
def test_a_killed_preparation_resumes_where_it_stopped(tmp_path: Path, name: str) -> None:
    flowers(tmp_path / "flowers", 60)
    command = [sys.executable, "-c", SLOWLY, "data", "prepare", "flowers", "out", "--jobs", "1"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    done = lambda: next((tmp_path / "out").glob(".train-*/done.npy"), None)  # noqa: E731
    end = time.monotonic() + 60
    while (done() is None or np.load(done()).sum() < 20) and time.monotonic() < end and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(getattr(signal, name))
    said = process.communicate()[0]
    if name == "SIGINT":
        assert process.returncode == 130 and "Rerun the command" in said and "Traceback" not in said
    before = int(np.load(done()).sum())
    assert 20 <= before < 60
    code = SLOWLY.replace("time.sleep(0.02)", "print('decoded', flush=True)")
    command[2] = code
    finished = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.count("decoded") == 60 - before + 3, "what was there is not decoded again"
    other = prepare(open_source(str(tmp_path / "flowers")), "train", 76)
    assert np.array_equal(np.load(tmp_path / "out" / "train" / "images.npy"), other.images)
    assert not [path.name for path in (tmp_path / "out").iterdir() if path.name.startswith(".")], "nothing else is left"


SLOWLY = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # what runs in the background ignores it
from stackflower.data import listed
load = listed.load_square
def slow(*given, **options):
    time.sleep(0.02)
    return load(*given, **options)
listed.load_square = slow
from stackflower.cli import main
main(sys.argv[1:])
"""


def test_a_folder_that_holds_something_else_is_refused(tmp_path: Path, stackflower) -> None:
    flowers(tmp_path / "flowers")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    assert "holds thesis.txt; name a new folder" in stackflower("data", "prepare", "flowers", "mine", code=2).output
    assert "name a new folder" in stackflower("data", "prepare", "flowers", "flowers", code=2).output
    stackflower("data", "prepare", "flowers", "out")
    stackflower("data", "prepare", "flowers", "out")  # again: it opens what is there
    assert "data of another size" in stackflower("data", "prepare", "flowers", "out", "--size", 64, code=2).output
    (tmp_path / "file").write_text("x")
    assert "is a file" in stackflower("data", "prepare", "flowers", "file", code=2).output


def test_memory_does_not_grow_with_the_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only a few files are read ahead of the threads that decode them."""
    root = flowers(tmp_path / "flowers", 100)
    held, most = [0], [0]
    read, load = listed.Files.within, listed.load_square
    source = open_source(str(root))
    files = source.get_listing("train").files  # type: ignore[attr-defined]
    plain = files.read

    def reading(name: str) -> bytes:
        held[0] += 1
        most[0] = max(most[0], held[0])
        content: bytes = plain(name)
        return content

    def decoding(*given: object, **options: object) -> np.ndarray:
        held[0] -= 1
        time.sleep(0.001)
        image: np.ndarray = load(*given, **options)  # type: ignore[arg-type]
        return image

    monkeypatch.setattr(files, "read", reading)
    monkeypatch.setattr(listed, "load_square", decoding)
    images = np.empty((100, 16, 16, 3), np.uint8)
    assert isinstance(source, Source) and read is not None
    assert source.fill("train", images, lambda done: None, jobs=2) == {}
    assert most[0] <= 2 * listed.READ_AHEAD


def test_a_drawn_split_is_of_its_share_and_seed(tmp_path: Path) -> None:
    root = flowers(tmp_path / "flowers") / "train"
    drawn = {}
    for options in ({"held_out": 0.25}, {"held_out": 0.25, "seed": 3}, {"held_out": 0.5}):
        source = open_source(str(root), options)
        for split in ("train", "validation"):
            data = prepare(source, split, 16)
            assert data.rows == source.rows(split), "not that of another share or seed"
            drawn[str(options), split] = data.key
    assert len(set(drawn.values())) == 6


def test_files_of_the_users_are_not_deleted(tmp_path: Path, stackflower) -> None:
    flowers(tmp_path / "flowers")
    for taken in ("train/my.npy", "validation/notes.json", ".hidden/x"):
        path = tmp_path / f"out-{taken.partition('/')[0]}" / taken
        path.parent.mkdir(parents=True)
        path.write_text("x")
        said = stackflower("data", "prepare", "flowers", path.parent.parent, code=2).output
        assert "name a new folder" in said and path.read_text() == "x"


def test_what_was_prepared_is_not_enlarged(tmp_path: Path, stackflower) -> None:
    flowers(tmp_path / "flowers")
    stackflower("data", "prepare", "flowers", "small", "--size", 32)
    assert (
        "can be prepared at 1 to 32 px, not at 64"
        in stackflower("data", "prepare", "small", "x", "--size", 64, code=2).output
    )
    assert "as in --size 76" in stackflower("data", "shard", "small", "shards", code=2).output
    stackflower("data", "shard", "small", "shards", "--size", 32)


def test_a_failed_preparation_leaves_nothing_once_it_succeeds(tmp_path: Path, stackflower) -> None:
    root = flowers(tmp_path / "flowers")
    spoil(root)
    (root / "train" / "9.jpg").rename(root / "train" / "gone.jpg")
    stackflower("data", "prepare", "flowers", "out", code=2)
    stackflower("data", "prepare", "flowers", "out", "--on-error", "skip")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "left-out.txt",
        "prepared.json",
        "summary.html",
        "test",
        "train",
    ]

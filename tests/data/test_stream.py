"""Shards that are read while a run trains: each sample once a pass, whatever happens, and whoever trains."""

from __future__ import annotations

import io
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import tarfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import TINY_NETWORKS, settings
from PIL import Image
from test_hostile_data import jpeg
from test_training import gloo

from stackflower.data import remote
from stackflower.data.opening import open_source, source_part
from stackflower.data.shard_locations import expand_braces
from stackflower.data.sources.stream import ShardReader, ShardStream
from stackflower.errors import DataError
from stackflower.runs import checkpoint
from stackflower.runs.folder import Run
from stackflower.text.encoders.ngram import NgramEncoder
from stackflower.training.batches.batch import Batch, Drawing
from stackflower.training.batches.decoding import CaptionDraws, Decoder
from stackflower.training.batches.order import StreamOrder
from stackflower.training.batches.streamed import POOL, EmbeddingCache, StreamedBatches
from stackflower.training.trainer import Trainer

COUNTS = (5, 11, 8, 3, 9, 14, 6)  # samples of the shards


def numbered(number: int) -> bytes:
    """A picture of one grey level, which tells its number."""
    buffer = io.BytesIO()
    Image.fromarray(np.full((20, 20, 3), 4 * (number % 64), np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def write_shards(folder: Path, counts: tuple[int, ...] = COUNTS) -> str:
    """Shards of numbered pictures; the pattern that names them."""
    folder.mkdir(parents=True, exist_ok=True)
    number = 0
    for shard, count in enumerate(counts):
        with tarfile.open(folder / f"train-{shard:03d}.tar", "w") as file:
            for _ in range(count):
                row = {"text": [f"flower {number}", f"kind {number % 5}"], "label": number % 5}
                for ending, content in (("png", numbered(number)), ("json", json.dumps(row).encode())):
                    member = tarfile.TarInfo(f"{number:05d}.{ending}")
                    member.size = len(content)
                    file.addfile(member, io.BytesIO(content))
                number += 1
    return str(folder / f"train-{{000..{len(counts) - 1:03d}}}.tar")


@pytest.mark.parametrize("batch", [1, 4, 6, 7, 16, 64])
@pytest.mark.parametrize("window", [1, 10, 1000])
def test_each_pass_has_every_sample_once(batch: int, window: int) -> None:
    order = StreamOrder(list(COUNTS), 3, batch, window)
    count = len(order)
    seen: list[tuple[int, int]] = []
    for first in range(0, 3 * count + batch, batch):
        shards, samples = order(first, range(batch))
        seen += zip(shards.tolist(), samples.tolist(), strict=True)
        halves = [order(first, range(batch // 2)), order(first, range(batch // 2, batch))]
        assert np.concatenate([half[0] for half in halves]).tolist() == shards.tolist()
        assert np.concatenate([half[1] for half in halves]).tolist() == samples.tolist()
    every = {(shard, sample) for shard, size in enumerate(COUNTS) for sample in range(size)}
    passes = [seen[epoch * count : (epoch + 1) * count] for epoch in range(3)]
    assert all(set(one) == every for one in passes) and passes[0] != passes[1] != passes[2]
    other = StreamOrder(list(COUNTS), 4, batch, window)
    again = [pair for first in range(0, count, batch) for pair in zip(*other(first, range(batch)), strict=True)]
    assert again[:count] != passes[0], "by the seed"


def test_a_process_opens_its_own_shards_alone() -> None:
    """Two of them share but the shards at the borders of lanes."""
    order = StreamOrder([100] * 80, 0, 64, 50)
    opened: list[set[int]] = []
    for rows in (range(32), range(32, 64)):
        opened.append({int(shard) for first in range(0, 7936, 64) for shard in order(first, rows)[0]})
    assert len(opened[0] & opened[1]) <= 1 and len(opened[0] | opened[1]) == 80


def batches(pattern: str, workers: int = 0, batch: int = 8, **options: Any) -> StreamedBatches:
    source = open_source(pattern)
    assert isinstance(source, ShardStream)
    order = StreamOrder(source.count("train"), 0, batch, 6)
    usual: dict[str, Any] = {"resolution": 16, "seed": 0, "draw_noise": lambda n, g: torch.randn(n, 3, generator=g)}
    device = torch.device("cpu")
    encoder = NgramEncoder(dim=64)
    captions = CaptionDraws(0, options.get("averaged", 1), encoder if workers else None)
    decoder = Decoder(source.reader("train"), order, captions, 18, workers)
    return StreamedBatches(decoder, EmbeddingCache(encoder, device), Drawing(**(usual | options)), device)


def numbers(batch: Batch) -> list[int]:
    return ((batch.images.mean((1, 2, 3)) + 1) * 127.5 / 4).round().int().tolist()


def test_batches_of_a_stream(tmp_path: Path) -> None:
    make = batches(write_shards(tmp_path), workers=2, hard_negatives=3)
    seen: list[int] = []
    encoder = NgramEncoder(dim=64)
    texts = {kind: encoder([f"kind {kind}"])[0] for kind in range(5)} | {
        f"f{n}": encoder([f"flower {n}"])[0] for n in range(56)
    }
    for first in range(0, 112, 8):
        batch = make(first, 8)
        own = numbers(batch)
        seen += own
        assert batch.label.tolist() == [number % 5 for number in own] == batch.fake_label.tolist()
        for row, number in enumerate(own):
            assert any(torch.allclose(batch.text[row], texts[key]) for key in (number % 5, f"f{number}"))
            negative = next(key for key, text in texts.items() if torch.allclose(batch.negative_text[row], text))
            assert (int(str(negative).strip("f")) % 5) != number % 5, "a negative is of another class"
    assert Counter(seen) == dict.fromkeys(range(56), 2), "each once a pass"


def test_workers_are_told_of_when_their_batch_comes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The batch after the latest is taken ahead, and left where the stream goes on elsewhere."""
    make = batches(write_shards(tmp_path), workers=1)
    every = [make(first, 8).images for first in range(0, 56, 8)]
    good = make.decoder.reader.image

    def image(shard: int, sample: int, size: int) -> np.ndarray:
        if (shard, sample) == bad:
            raise DataError("the image is damaged.")
        return good(shard, sample, size)

    shards, samples = make.decoder.order(8, range(8))
    bad = int(shards[0]), int(samples[0])
    again = batches(str(tmp_path / "train-*.tar"), workers=1)
    monkeypatch.setattr(again.decoder.reader, "image", image)
    assert torch.equal(again(0, 8).images, every[0]), "not before"
    with pytest.raises(DataError, match="the image is damaged"):
        again(8, 8)
    for first in (24, 40, 32, 0):
        assert torch.equal(again(first, 8).images, every[first // 8])


STALLS = """
import sys, time
from stackflower.data.sources.stream import ShardReader

read, seen = ShardReader.image, []

def image(self, shard, sample, size):
    seen.append(sample)
    if len(seen) > 16:
        time.sleep(300)
    return read(self, shard, sample, size)

ShardReader.image = image
from stackflower.cli import main
main(sys.argv[1:])
"""


def test_a_training_ends_though_a_worker_stalls(tmp_path: Path) -> None:
    """At the batch after the last."""
    pattern = write_shards(tmp_path / "shards")
    command = ["train", "--stage", "1", "--data", pattern, "--images", "16", "--out", str(tmp_path / "run")]
    command += [*TINY_NETWORKS, *settings("train.batch_size=8", "data.workers=1")]
    subprocess.run([sys.executable, "-c", STALLS, *map(str, command)], check=True, timeout=120)
    assert (tmp_path / "run" / "generator.safetensors").exists()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"latents_per_caption": 2, "interpolated": 0.5},
        {"averaged": 2, "flip_vertical": True},
        {"contrasted": 5, "hard_negatives": 4},
    ],
    ids=str,
)
def test_going_on_in_the_middle_gives_the_same_batches(tmp_path: Path, options: dict[str, Any]) -> None:
    pattern = write_shards(tmp_path)
    whole = batches(pattern, **options)
    wanted = [whole(first, 8) for first in range(0, 200, 8)]
    for first in (0, 56, 192):
        found = batches(pattern, workers=first % 3, **options)(first, 8)
        for name, value in vars(wanted[first // 8]).items():
            other = getattr(found, name)
            if value is not None and name != "others":
                assert torch.equal(value, other), name
            elif value is not None:
                assert torch.equal(value.embedding, other.embedding) and torch.equal(value.label, other.label)


def test_negatives_come_from_the_images_before(tmp_path: Path) -> None:
    make = batches(write_shards(tmp_path, (300, 300, 300)), batch=4, contrasted=400)
    for first in range(0, 4 * 200, 4):
        batch = make(first, 4)
    assert batch.others is not None and len(batch.others.label.unique()) == 5
    assert make._pool is not None and len(make._pool) == POOL


TRAIN = [
    "--recipe",
    "quickstart",
    "--images",
    "160",
    *TINY_NETWORKS,
    *settings("data.window=6", "output.checkpoint_every=40"),
]


def same(one: Path, other: Path, tolerance: float = 0.0) -> None:
    from safetensors.torch import load_file

    a, b = (load_file(Run(run).weights_file) for run in (one, other))
    assert max(float((a[name] - b[name]).abs().max()) for name in a) <= tolerance


def test_a_stream_that_is_killed_goes_on(tmp_path: Path, stackflower) -> None:
    pattern = write_shards(tmp_path / "shards")
    said = stackflower("train", "--data", pattern, "--out", "whole", *TRAIN).output
    assert "is a stream of WebDataset shards, 7 for training" in said and "preparing" not in said
    flags = [pattern, "--out", "run", *TRAIN, *settings("output.log_every=1")]
    slow = [sys.executable, "-c", SLOWLY, "train", "--data", *flags]
    process = subprocess.Popen(slow, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    metrics = tmp_path / "run" / "metrics.jsonl"
    while process.poll() is None and not (metrics.exists() and len(metrics.read_text().splitlines()) >= 8):
        pass
    process.kill()
    process.communicate(timeout=60)  # the workers, which have its pipes too, end with it
    assert Run(tmp_path / "run").list_checkpoints()
    stackflower("train", "--resume", "run", *settings("data.workers=0"))
    same(tmp_path / "whole", tmp_path / "run")
    rows = [json.loads(line) for line in metrics.read_text().splitlines()]
    assert all(0 <= row["data/waiting"] <= 1 for row in rows if "step" in row)


def test_a_worker_that_is_killed_is_named(tmp_path: Path, stackflower, monkeypatch: pytest.MonkeyPatch) -> None:
    data, step = ["--data", write_shards(tmp_path / "shards")], Trainer.train_step

    def kill(self: Trainer) -> None:
        step(self)
        if self.images >= 60:
            for worker in multiprocessing.active_children():
                worker.kill()

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "train_step", kill)
        said = stackflower("train", *data, "--out", "run", *TRAIN, *settings("data.workers=1"), code=1).output
    assert "A worker process that decodes the stream was killed by signal: Killed;" in said and "--resume run" in said
    assert 40 <= checkpoint.read_state(Run(tmp_path / "run").list_checkpoints()[-1]).images < 160
    stackflower("train", "--resume", "run", *settings("data.workers=0"))
    stackflower("train", *data, "--out", "whole", *TRAIN)
    same(tmp_path / "whole", tmp_path / "run")


def test_a_signal_to_all_processes_saves_a_checkpoint(tmp_path: Path, stackflower) -> None:
    """As `timeout` and schedulers of clusters send it."""
    flags = [
        write_shards(tmp_path / "shards"),
        "--out",
        "run",
        *TRAIN[:3],
        "100000",
        *TRAIN[4:],
        *settings("data.workers=2"),
    ]
    flags += settings("output.log_every=1", "output.checkpoint_every=50000")
    slow = [sys.executable, "-c", SLOWLY, "train", "--data", *flags]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen(slow, cwd=tmp_path, text=True, start_new_session=True, **pipes)
    metrics = tmp_path / "run" / "metrics.jsonl"
    while process.poll() is None and not (metrics.exists() and len(metrics.read_text().splitlines()) >= 4):
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM and "Traceback" not in said and "was killed" not in said, said
    assert checkpoint.read_state(Run(tmp_path / "run").list_checkpoints()[-1]).images >= 4


SLOWLY = """
import sys, time
from stackflower.training.trainer import Trainer
step = Trainer.train_step
def slow(self):
    step(self); time.sleep(0.1)
Trainer.train_step = slow
from stackflower.cli import main
main(sys.argv[1:])
"""


def test_two_processes_are_one(tmp_path: Path, stackflower) -> None:
    """With SGD, as Adam's first steps go by the sign of a gradient, which turns over with the last bit near zero."""
    sgd = [f"optimizer.{name}.{value}" for name in ("generator", "discriminator") for value in ("name=sgd", "lr=0.01")]
    flags = ["--data", write_shards(tmp_path / "shards"), *TRAIN, *settings("train.contrasted=0", *sgd)]
    stackflower("train", "--out", "one", *flags)
    done = gloo(tmp_path, "train", "--out", "two", *flags)
    assert done.returncode == 0, done.stderr
    same(tmp_path / "one", tmp_path / "two", 1e-4)
    stackflower("train", "--out", "other", *flags, *settings("data.window=5"))
    with pytest.raises(AssertionError):
        same(tmp_path / "one", tmp_path / "other", 1e-4)  # another order is told


def test_what_a_stream_refuses(tmp_path: Path, stackflower) -> None:
    pattern = write_shards(tmp_path / "shards")
    said = stackflower("train", "--data", pattern, "--out", "x", *TRAIN, "--text", "multi-hot", code=2).output
    assert "needs all captions" in said and "--set data.name=shards" in said
    said = stackflower("train", "--data", pattern.replace("006", "008"), "--out", "x", *TRAIN, code=2).output
    assert "names 2 files that are not there" in said
    whole = (tmp_path / "shards" / "train-003.tar").read_bytes()
    (tmp_path / "shards" / "train-003.tar").write_bytes(whole[:1700])
    said = stackflower("train", "--data", pattern, "--out", "x", *TRAIN, code=2).output
    assert "train-003.tar is cut off" in said and "data.skip_bad=true" in said and not (tmp_path / "x").exists()
    said = stackflower("train", "--data", pattern, "--out", "x", *TRAIN, *settings("data.skip_bad=true")).output
    assert "samples are left out" in said


def test_images_of_a_stream_that_can_not_be_read(tmp_path: Path, stackflower) -> None:
    pattern = write_shards(tmp_path / "shards")
    shard = tmp_path / "shards" / "train-002.tar"
    shard.write_bytes(shard.read_bytes().replace(b"\x89PNG", b"GNP.", 1))
    said = stackflower("train", "--data", pattern, "--out", "x", *TRAIN, code=2).output
    assert "train-002.tar/sample 0 can't be read as an image" in said and "Traceback" not in said
    said = stackflower("train", "--data", pattern, "--out", "y", *TRAIN, *settings("data.skip_bad=true")).output
    assert said.count("It is replaced by the next image of the shard.") == 1


def test_shards_elsewhere(tmp_path: Path, stackflower, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "shards"
    write_shards(folder)
    url = f"file://{folder}/train-{{000..006}}.tar"
    assert source_part(url) == {"name": "stream", "path": url}
    stackflower("train", "--data", str(folder / "train-{000..006}.tar"), "--out", "near", *TRAIN)
    stackflower("train", "--data", url, "--out", "far", *TRAIN)
    same(tmp_path / "near", tmp_path / "far")
    (folder / "index.json").write_text(
        json.dumps({f"train-{n:03d}.tar": {"samples": count} for n, count in enumerate(COUNTS)})
    )
    fetched = list[str]()
    fetch = remote._fetch
    monkeypatch.setattr(remote, "_fetch", lambda location, copy: (fetched.append(location), fetch(location, copy)))
    source = open_source(url.replace(str(folder), f"{folder}/../shards"))
    assert isinstance(source, ShardStream)
    assert source.count("train") == list(COUNTS) and [Path(one).name for one in fetched] == ["index.json"]
    with pytest.raises(DataError, match="There are no shards"):
        open_source(f"file://{tmp_path}/nowhere/train-{{000..001}}.tar")
    monkeypatch.setenv("STACKFLOWER_CACHE_GIB", "0")
    reader = source.reader("train")
    assert [reader.row(shard, 0)["label"] for shard in range(7)] == [0, 0, 1, 4, 2, 1, 0]
    with pytest.raises(DataError, match="has 5 samples that can be used, and 6 were counted"):
        ShardReader(source.shards["train"], [6, *COUNTS[1:]]).row(0, 5)
    monkeypatch.setenv("STACKFLOWER_CACHE_GIB", "many")
    with pytest.raises(DataError, match="is not a number of GiB"):
        remote.local(f"file://{folder}/../shards/../shards/index.json")


def test_patterns_with_braces(tmp_path: Path) -> None:
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
    with pytest.raises(DataError, match=r"names 2 files that are not there, the first train-007\.tar"):
        open_source(f"{tmp_path}/{{a,b}}/train-{{000..007}}.tar").splits()


def test_a_validation_split_of_shards_is_drawn(tmp_path: Path) -> None:
    write_shards(tmp_path / "shards")
    source = open_source(str(tmp_path / "shards"), {"held_out": 0.25})
    train, validation = (source.rows(split) for split in ("train", "validation"))
    assert source.splits() == ["train", "validation"] and len(validation) == round(sum(COUNTS) * 0.25)
    assert train.files and validation.files and not set(train.files) & set(validation.files)
    assert len(train) + len(validation) == sum(COUNTS)


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
    stored = one.get_listing("train").files.read("4.jpg")  # type: ignore[attr-defined]
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


def test_data_shard_goes_on(tmp_path: Path, stackflower, monkeypatch: pytest.MonkeyPatch) -> None:
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
    assert "it resumes where it stopped" in stackflower("data", "shard", "flowers", "shards", "--per-shard", 2, code=2).output
    monkeypatch.setattr(shard, "_write_shard", lambda path, *given: (written.append(path.name), write(path, *given)))
    stackflower("data", "shard", "flowers", "shards", "--per-shard", 2)
    assert written == ["train-000000.tar", "train-000001.tar", "train-000002.tar"]
    assert "No problems" in stackflower("data", "check", "shards").output


def test_shards_elsewhere_that_change_are_fetched_anew(tmp_path: Path) -> None:
    folder = tmp_path / "shards"
    write_shards(folder, (3, 4))
    url = f"file://{folder}/train-{{000..001}}.tar"
    labels = []
    for counts in ((3, 4), (4, 3)):
        write_shards(folder, counts)
        remote._copy.cache_clear()  # as a new process
        source = open_source(url)
        assert isinstance(source, ShardStream) and source.count("train") == list(counts)
        labels.append([source.reader("train").row(1, sample)["label"] for sample in range(counts[1])])
    assert labels == [[3, 4, 0, 1], [4, 0, 1]]


def test_workers_that_fetch_into_a_full_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STACKFLOWER_CACHE_GIB", "0.000001")
    write_shards(tmp_path / "shards", (6,) * 12)
    make = batches(f"file://{tmp_path}/shards/train-{{000..011}}.tar", workers=3)
    assert Counter(number for first in range(0, 72, 8) for number in numbers(make(first, 8))) == Counter(
        range(64)
    ) + Counter(range(8))

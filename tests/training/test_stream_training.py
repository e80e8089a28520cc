"""Training on a stream of shards, whatever happens to it and whoever trains."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ATTENTION, TINY_NETWORKS, posix, settings
from running import STREAM_FLAGS, gloo, same_weights
from sample_data import write_shards

from stackflower.runs import checkpoint
from stackflower.runs.folder import Run
from stackflower.training.trainer import Trainer

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


def test_a_training_ends_though_a_worker_stalls_at_the_batch_after(tmp_path: Path) -> None:
    """At the batch after the last."""
    pattern = write_shards(tmp_path / "shards")
    command = ["train", "--stage", "1", "--data", pattern, "--images", "16", "--out", str(tmp_path / "run")]
    command += [*TINY_NETWORKS, *settings("train.batch_size=8", "data.workers=1")]
    subprocess.run([sys.executable, "-c", STALLS, *map(str, command)], check=True, timeout=120)
    assert (tmp_path / "run" / "generator.safetensors").exists()


def test_a_killed_training_on_a_stream_resumes_exactly(tmp_path: Path, stackflower) -> None:
    pattern = write_shards(tmp_path / "shards")
    said = stackflower("train", "--data", pattern, "--out", "whole", *STREAM_FLAGS).output
    assert "is a stream of WebDataset shards, 7 for training" in said and "preparing" not in said
    flags = [pattern, "--out", "run", *STREAM_FLAGS, *settings("output.log_every=1")]
    slow = [sys.executable, "-c", SLOWLY, "train", "--data", *flags]
    process = subprocess.Popen(slow, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    metrics = tmp_path / "run" / "metrics.jsonl"
    while process.poll() is None and not (metrics.exists() and len(metrics.read_text().splitlines()) >= 8):
        pass
    process.kill()
    process.communicate(timeout=60)  # the workers, which have its pipes too, end with it
    assert Run(tmp_path / "run").list_checkpoints()
    stackflower("train", "--resume", "run", *settings("data.workers=0"))
    same_weights(tmp_path / "whole", tmp_path / "run")
    rows = [json.loads(line) for line in metrics.read_text().splitlines()]
    assert all(0 <= row["data/waiting"] <= 1 for row in rows if "step" in row)


@posix
def test_a_worker_that_is_killed_is_named(tmp_path: Path, stackflower, monkeypatch: pytest.MonkeyPatch) -> None:
    data, step = ["--data", write_shards(tmp_path / "shards")], Trainer.train_step

    def kill(self: Trainer) -> None:
        step(self)
        if self.images >= 60:
            for worker in multiprocessing.active_children():
                worker.kill()

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "train_step", kill)
        said = stackflower("train", *data, "--out", "run", *STREAM_FLAGS, *settings("data.workers=1"), code=1).output
    assert "A worker process that decodes the stream was killed by signal: Killed;" in said and "--resume run" in said
    assert 40 <= checkpoint.read_state(Run(tmp_path / "run").list_checkpoints()[-1]).images < 160
    stackflower("train", "--resume", "run", *settings("data.workers=0"))
    stackflower("train", *data, "--out", "whole", *STREAM_FLAGS)
    same_weights(tmp_path / "whole", tmp_path / "run")


@posix
def test_a_signal_to_all_processes_saves_a_checkpoint(tmp_path: Path, stackflower) -> None:
    """As `timeout` and schedulers of clusters send it."""
    flags = [
        write_shards(tmp_path / "shards"),
        "--out",
        "run",
        *STREAM_FLAGS[:3],
        "100000",
        *STREAM_FLAGS[4:],
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


@pytest.mark.parametrize("generator", [[], ATTENTION], ids=["stage1", "attention"])
def test_two_processes_train_on_a_stream_as_one(tmp_path: Path, stackflower, generator: list[str]) -> None:
    """With SGD, as Adam's first steps go by the sign of a gradient, which turns over with the last bit near zero."""
    sgd = [f"optimizer.{name}.{value}" for name in ("generator", "discriminator") for value in ("name=sgd", "lr=0.01")]
    flags = [
        "--data",
        write_shards(tmp_path / "shards"),
        *STREAM_FLAGS,
        *generator,
        *settings("train.contrasted=0", *sgd),
    ]
    stackflower("train", "--out", "one", *flags)
    done = gloo(tmp_path, "train", "--out", "two", *flags)
    assert done.returncode == 0, done.stderr
    same_weights(tmp_path / "one", tmp_path / "two", 1e-4)
    stackflower("train", "--out", "other", *flags, *settings("data.window=5"))
    with pytest.raises(AssertionError):
        same_weights(tmp_path / "one", tmp_path / "other", 1e-4)  # another order is told


def test_wrong_uses_of_a_stream_are_refused(tmp_path: Path, stackflower) -> None:
    pattern = write_shards(tmp_path / "shards")
    said = stackflower("train", "--data", pattern, "--out", "x", *STREAM_FLAGS, "--text", "multi-hot", code=2).output
    assert "needs all captions" in said and "--set data.name=shards" in said
    said = stackflower("train", "--data", pattern.replace("006", "008"), "--out", "x", *STREAM_FLAGS, code=2).output
    assert "names 2 files that don't exist" in said
    whole = (tmp_path / "shards" / "train-003.tar").read_bytes()
    (tmp_path / "shards" / "train-003.tar").write_bytes(whole[:1700])
    said = stackflower("train", "--data", pattern, "--out", "x", *STREAM_FLAGS, code=2).output
    assert "train-003.tar is cut off" in said and "data.skip_bad=true" in said and not (tmp_path / "x").exists()
    said = stackflower("train", "--data", pattern, "--out", "x", *STREAM_FLAGS, *settings("data.skip_bad=true")).output
    assert "samples are left out" in said


def test_images_of_a_stream_that_can_not_be_read_are_named_or_replaced(tmp_path: Path, stackflower) -> None:
    pattern = write_shards(tmp_path / "shards")
    shard = tmp_path / "shards" / "train-002.tar"
    shard.write_bytes(shard.read_bytes().replace(b"\x89PNG", b"GNP.", 1))
    said = stackflower("train", "--data", pattern, "--out", "x", *STREAM_FLAGS, code=2).output
    assert "train-002.tar/sample 0 can't be read as an image" in said and "Traceback" not in said
    said = stackflower("train", "--data", pattern, "--out", "y", *STREAM_FLAGS, *settings("data.skip_bad=true")).output
    assert said.count("It is replaced by the next image of the shard.") == 1

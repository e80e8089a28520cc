"""What tests of training share: runs in processes of their own, what they left, and whether two are the same."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import torch
from conftest import TINY, TINY_NETWORKS, settings
from safetensors.torch import load_file

from stackflower.runs.folder import Run


def last(run: Path) -> Path:
    return Run(run).list_checkpoints()[-1]


def same(one: Path, other: Path) -> None:
    """Two runs ended with the same numbers, tensor for tensor."""
    assert last(one).name == last(other).name
    names = {path.stem for path in last(one).glob("*.safetensors")}
    assert names == {path.stem for path in last(other).glob("*.safetensors")} and len(names) >= 6
    for name in names:
        mine, theirs = load_file(last(one) / f"{name}.safetensors"), load_file(last(other) / f"{name}.safetensors")
        assert mine.keys() == theirs.keys() and mine, name
        for key in mine:
            assert torch.equal(mine[key], theirs[key]), f"{name}: {key}"
    for file in ("generator.safetensors", "text/encoder.safetensors"):
        assert (one / file).exists() == (other / file).exists()
        if (one / file).exists():
            one_model, other_model = load_file(one / file), load_file(other / file)
            assert all(torch.equal(one_model[key], other_model[key]) for key in one_model)
    states = [json.loads((last(run) / "state.json").read_text()) for run in (one, other)]
    assert states[0] == states[1]


def lines(run: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


RELATIVISTIC_ADA = [
    *("--discriminator", "r3gan", "--penalty", "r2=1", "--augmentation", "ada"),
    *settings("augmentation.strength=0.5"),
]


def with_features(arguments: list[str], projected_flags: list[str]) -> list[str]:
    """The arguments with the flags of the tiny projected discriminator in the place of its name."""
    return [one for given in arguments for one in (projected_flags if given == "PROJECTED" else [given])]


def start(tmp_path: Path, *arguments: str, ignores_hangup: bool = False) -> subprocess.Popen[str]:
    """Start a training, which ignores SIGHUP only if asked, even if `nohup` runs the tests."""

    def set_hangup() -> None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN if ignores_hangup else signal.SIG_DFL)

    return subprocess.Popen(
        [sys.executable, "-m", "stackflower", "train", *arguments],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=set_hangup if os.name == "posix" else None,
    )


def wait_for(condition, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


SLOW = [
    *TINY,
    "--images",
    "1600",
    "--set",
    "output.checkpoint_every=16",
    "--set",
    "output.log_every=1",
    "--set",
    "output.sample_every=100000",
]


def launch(tmp_path: Path, *program: str) -> subprocess.CompletedProcess[str]:
    """A Python program, or a module after -m, on one thread."""
    return subprocess.run(
        [sys.executable, *program],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=280,
    )


def two(tmp_path: Path, *program: str) -> subprocess.CompletedProcess[str]:
    """The same on two processes."""
    return launch(tmp_path, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *program)


def gloo(tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command line on two processes."""
    return two(tmp_path, "-m", "stackflower", *arguments)


STREAM_FLAGS = [
    "--recipe",
    "quickstart",
    "--images",
    "160",
    *TINY_NETWORKS,
    *settings("data.window=6", "output.checkpoint_every=40"),
]


def same_weights(one: Path, other: Path, tolerance: float = 0.0) -> None:
    from safetensors.torch import load_file

    a, b = (load_file(Run(run).weights_file) for run in (one, other))
    assert max(float((a[name] - b[name]).abs().max()) for name in a) <= tolerance

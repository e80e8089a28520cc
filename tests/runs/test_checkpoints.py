"""Checkpoints: which are kept, and that nothing takes the last one."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from conftest import TINY
from running import SLOW, same, start, wait_for

from stackflower.runs import checkpoint
from stackflower.runs.folder import Run


def test_a_full_disk_leaves_the_last_checkpoint(stackflower, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, calls = checkpoint.save_file, [0]

    def full(tensors: dict[str, torch.Tensor], path: Path, *rest: object) -> None:
        calls[0] += 1
        if calls[0] > 20:
            Path(path).write_bytes(b"half")
            raise OSError(28, "No space left on device")
        plain(tensors, path, *rest)

    monkeypatch.setattr(checkpoint, "save_file", full)
    result = stackflower("train", "--out", "run", "--images", 96, *TINY, "--set", "output.checkpoint_every=16", code=1)
    assert "No space left on device" in result.output and "--resume run" in result.output
    again = stackflower("train", "--resume", "run", code=1)
    assert "No space left on device" in again.output and "is untouched" in again.output
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    stackflower("train", "--resume", "run")
    stackflower("train", "--out", "whole", "--images", 96, *TINY, "--set", "output.checkpoint_every=16")
    same(tmp_path / "whole", tmp_path / "run")


def test_old_checkpoints_go_and_every_nth_stays(stackflower, tmp_path: Path) -> None:
    stackflower(
        "train",
        "--out",
        "run",
        "--images",
        96,
        *TINY,
        "--set",
        "output.checkpoint_every=8",
        "--set",
        "output.keep_every=4",
    )
    kept = [int(path.name[7:]) for path in Run(tmp_path / "run").list_checkpoints()]
    assert kept == [24, 56, 88, 96]  # numbers 4, 8, 12 and the last two


def test_a_run_in_use_is_refused(stackflower, tmp_path: Path) -> None:
    process = start(tmp_path, "--out", "run", *SLOW, "--images", "400000")
    try:
        wait_for(lambda: (tmp_path / "run" / "config.json").exists())
        assert "Another process is writing to run" in stackflower("train", "--resume", "run", code=2).output
    finally:
        process.kill()
        process.communicate()


def test_a_run_without_checkpoints_keeps_its_model(stackflower, tmp_path: Path, trained: Path) -> None:
    shutil.copytree(trained, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    before = (tmp_path / "run" / "generator.safetensors").read_bytes()
    out = stackflower("train", "--resume", "run", "--images", 128, code=2).output
    assert "has a trained model but no complete checkpoint in run/checkpoints" in out
    assert (tmp_path / "run" / "generator.safetensors").read_bytes() == before
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == (trained / "metrics.jsonl").read_bytes()

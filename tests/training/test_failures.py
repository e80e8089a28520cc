"""What becomes of a training when a loss turns infinite or a process ends."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from conftest import FEW, TINY, settings
from running import last, lines
from safetensors.torch import load_file

from stackflower.errors import TrainingFailed
from stackflower.pipeline import Pipeline
from stackflower.runs.folder import Run
from stackflower.training.step import TrainingStep
from stackflower.training.stopping import naming_lost_processes


@pytest.mark.parametrize(
    ("raised", "sentence"),
    [
        (
            "DataLoader worker (pid 7) is killed by signal: Bus error. "
            "It is possible that dataloader's workers are out of",
            "A worker process that decodes the stream was killed by signal: Bus error;",
        ),
        ("DataLoader worker (pid(s) 7, 8) exited unexpectedly", "that decodes the stream exited unexpectedly;"),
        (
            "[gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:1",
            "Another process of this training",
        ),
    ],
)
def test_a_process_that_ended_is_named(raised: str, sentence: str) -> None:
    with pytest.raises(TrainingFailed, match=re.escape(sentence)) as caught, naming_lost_processes(Path("my run")):
        raise RuntimeError(raised)
    assert "resume with `resume=my run`" in str(caught.value)
    with pytest.raises(RuntimeError, match="a shape"), naming_lost_processes(Path("run")):
        raise RuntimeError("a shape that does not fit")


def poison(monkeypatch: pytest.MonkeyPatch, times: int) -> list[int]:
    """Spoil the generator's weights at the sixth step, `times` times."""
    left, plain = [times], TrainingStep.__call__

    def spoiled(self: TrainingStep, images: int, step: int) -> int:
        seen = plain(self, images, step)
        if step == 5 and left[0]:
            left[0] -= 1
            with torch.no_grad():
                self.networks.stage.generator.to_image.weight.fill_(float("nan"))
        return seen

    monkeypatch.setattr(TrainingStep, "__call__", spoiled)
    return left


def test_a_loss_that_turns_infinite_goes_back_with_half_the_rate(
    stackflower, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    poison(monkeypatch, 2)
    result = stackflower(
        "train",
        "--out",
        "run",
        "--images",
        96,
        *TINY,
        "--set",
        "output.checkpoint_every=24",
        "--set",
        "output.log_every=4",
    )
    events = [line for line in lines(tmp_path / "run") if line.get("event") == "rollback"]
    assert [event["rate_scale"] for event in events] == [0.5, 0.25]
    assert "Non-finite at" in result.output and events[0]["terms"]
    assert "generator's weights" in events[0]["terms"], "found before the checkpoint was written"
    assert lines(tmp_path / "run")[-1]["lr/generator"] <= 0.25 * 5e-4
    weights = load_file(tmp_path / "run" / "generator.safetensors")
    assert all(torch.isfinite(value).all() for value in weights.values())


def test_a_loss_that_turns_infinite_three_times_stops_the_run_and_is_named(
    stackflower, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    poison(monkeypatch, 10)
    seldom = settings("output.log_every=4", "output.checkpoint_every=100000")
    result = stackflower("train", "--out", "run", "--images", 96, *TINY, *seldom, code=1)
    assert "generator/adversarial-16" in result.output and "--penalty r1" in result.output
    assert all(torch.isfinite(v).all() for v in load_file(last(tmp_path / "run") / "generator.safetensors").values())


def test_a_run_that_crashes_in_its_first_step_is_untrained(
    stackflower, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def crash(self: TrainingStep, images: int, step: int) -> int:
        raise RuntimeError("out of memory")

    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="out of memory"):
        patch.setattr(TrainingStep, "__call__", crash)
        stackflower("train", "--out", "run", "--images", 16, *TINY)
    warning = "run is untrained: its only checkpoint is from before the first step."
    assert f"Warning: {warning}" in stackflower("sample", "run", "a red flower", "--out", "one.png").output
    scored = stackflower("eval", "run", "--data", "synthetic-flowers", *FEW, "--metrics", "fid", "--samples", 8)
    assert f"Warning: {warning}" in scored.output
    with caplog.at_level("WARNING", logger="stackflower"):
        Pipeline.from_run("run")
    assert warning in caplog.messages

    refused = stackflower("train", "--out", "run", "--images", 16, *TINY, "--batch-size", 4, code=2).output
    assert "run holds an untrained run. Resume it with --resume run; to train with other settings, delete" in refused
    with Run("run").lock():
        refused = stackflower("train", "--out", "run", "--images", 16, *TINY, code=2).output
    assert "Another process is writing to run." in refused
    resumed = stackflower("train", "--resume", "run").output
    assert "Resuming at 0 images." in resumed and Run("run").images == 16
    assert "untrained" not in stackflower("sample", "run", "a red flower", "--out", "two.png").output

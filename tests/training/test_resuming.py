"""A run that was stopped or killed resumes and ends with the same numbers."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch
from conftest import ATTENTION, TINY, TINY_NETWORKS, posix, settings
from running import RELATIVISTIC_ADA, SLOW, last, lines, same, start, wait_for, with_features
from safetensors.torch import load_file

from stackflower import registry
from stackflower.objectives.hinge import Hinge
from stackflower.runs import checkpoint
from stackflower.runs.folder import Run
from stackflower.training.stopping import SIGNALS


@pytest.mark.parametrize(
    "extra",
    [
        [],
        ["--penalty", "r1=1", "--set", "penalties.r1.every=3"],
        ["--penalty", "mode-seeking", "--set", "train.latents_per_caption=2", "--gradient-accumulation", "2"],
        [
            "--set",
            "train.critic_steps=2",
            "--objective",
            "hinge",
            "--conditioning",
            "projection",
            "--set",
            "generator.noise=uniform",
        ],
        settings(
            "optimizer.generator.name=rmsprop", "optimizer.discriminator.name=sgd", "optimizer.discriminator.beta1=0.9"
        ),
        [
            *("--discriminator", "began", "--penalty", "out-of-range", "--conditioning", "projection"),
            *settings(
                "conditioning.noise=0.1", "optimizer.generator.plateau=0.4", "optimizer.discriminator.plateau=0.4"
            ),
        ],
        ["--text", "rnn", "--set", "train.captions_averaged=2"],
        ["--text", "rnn", "--gradient-accumulation", "2", *settings("optimizer.text.name=rmsprop")],
        ["--generator", "tree", *settings("generator.scales=2", "generator.resolution=32")],
        [
            "--generator",
            "residual",
            *settings("generator.norm=virtual", "generator.dropout=0.5", "train.flip_vertical=true"),
        ],
        ["PROJECTED", "--augmentation", "diffaugment", "--penalty", "r1=0.1"],
        [
            "PROJECTED",
            "--penalty",
            "mode-seeking",
            *("--penalty", "feature-matching", "--objective", "hinge"),
            *settings("penalties.mode-seeking.space=features", "train.latents_per_caption=2", "train.contrasted=8"),
        ],
        RELATIVISTIC_ADA,
        ["PROJECTED", "--generator", "tree", *settings("generator.scales=2", "generator.resolution=32")],
        [*ATTENTION, "--gradient-accumulation", "2", *settings("train.interpolated=0.5", "train.captions_averaged=2")],
        [*ATTENTION, "--text", "rnn"],
    ],
    ids=[
        *("plain", "lazy-r1", "mode-seeking-accumulated", "critic-steps", "rmsprop-and-sgd"),
        *("began", "joint-text", "joint-text-accumulated", "tree", "virtual-batch-norm"),
        *("projected", "projected-features", "relativistic-ada", "projected-tree"),
        *("attention-accumulated", "attention-joint-text"),
    ],
)
def test_resuming_is_exact(stackflower, tmp_path: Path, projected_flags: list[str], extra: list[str]) -> None:
    tiny = with_features([*TINY, *extra], projected_flags)
    stackflower("train", "--out", "whole", "--images", 96, *tiny, "--set", "output.checkpoint_every=32")
    shutil.copytree("whole", "parts")
    run = Run("parts")
    while len(run.list_checkpoints()) > 1:  # back to an earlier one
        shutil.rmtree(run.list_checkpoints()[-1])
    (tmp_path / "parts" / "generator.safetensors").unlink()
    stackflower("train", "--resume", "parts")
    same(tmp_path / "whole", tmp_path / "parts")
    assert [line["images"] for line in lines(tmp_path / "parts")] == [
        line["images"] for line in lines(tmp_path / "whole")
    ]


def test_a_longer_resume_is_remembered_and_the_model_is_written_again(
    stackflower, tmp_path: Path, trained: Path
) -> None:

    shutil.copytree(trained, tmp_path / "run")
    stackflower("train", "--resume", "run", "--images", 128)
    assert json.loads((tmp_path / "run" / "config.json").read_text())["run"]["train"]["images"] == 128
    (tmp_path / "run" / "generator.safetensors").unlink()
    stackflower("train", "--resume", "run")
    model, average = (
        load_file(p)
        for p in (tmp_path / "run" / "generator.safetensors", last(tmp_path / "run") / "generator-ema.safetensors")
    )
    assert all(torch.equal(model[key], average[key]) for key in average)


def test_a_run_does_not_resume_with_other_data(stackflower, tmp_path: Path) -> None:
    flowers = ["data", "make", "synthetic-flowers", "--count", 16, "--validation", 8, "--test", 8, "--resolution", 64]
    stackflower(*flowers, "--out", "flowers")
    stackflower("train", "--data", "flowers", "--out", "run", "--images", 16, *TINY_NETWORKS)
    for file in (tmp_path / "flowers").rglob("*.*"):  # a copy has other times
        os.utime(file, (1e9, 1e9))
    stackflower("train", "--resume", "run", "--images", 24)
    metadata = tmp_path / "flowers" / "train" / "metadata.jsonl"
    metadata.write_text(metadata.read_text().replace("flower", "bloom"))
    assert "the images or captions changed" in stackflower("train", "--resume", "run", "--images", 32, code=2).output


class Counting(Hinge):
    """An objective with state: how many steps it has seen, and the last real loss."""

    def __init__(self, *, generator_contrast: float = 1.0) -> None:
        super().__init__(generator_contrast=generator_contrast)
        self.register_buffer("steps", torch.zeros(()))

    def after_step(self, measured):  # type: ignore[no-untyped-def]
        self.steps += 1
        assert {"real", "fake", "negative", "adversarial"} <= measured.keys()
        return {"steps": self.steps.clone()}


def test_an_objectives_state_moves_and_survives_a_resume(
    stackflower, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = registry.get
    monkeypatch.setattr(
        registry, "get", lambda kind, name: Counting if (kind, name) == ("objective", "hinge") else plain(kind, name)
    )
    stackflower("train", "--out", "run", "--images", 96, *TINY)
    stackflower("train", "--resume", "run", "--images", 128)
    state = load_file(last(tmp_path / "run") / "discriminator-16.safetensors")
    assert state["objective.steps"] == 128 / 8
    assert lines(tmp_path / "run")[-1]["discriminator-16/steps"] > 0


@posix
def test_a_signal_that_the_caller_ignores_does_not_stop_a_run(tmp_path: Path) -> None:
    process = start(tmp_path, "--out", "run", *SLOW, "--images", "400", ignores_hangup=True)  # as nohup does
    wait_for(lambda: (tmp_path / "run" / "metrics.jsonl").exists())
    process.send_signal(signal.SIGHUP)
    assert process.wait(60) == 0 and Run(tmp_path / "run").list_checkpoint_images()[-1] == 400


def test_a_killed_and_resumed_run_equals_an_uninterrupted_one(tmp_path: Path, stackflower) -> None:
    stackflower("train", "--out", "whole", *SLOW)
    process = start(tmp_path, "--out", "run", *SLOW)
    for _ in range(2):
        wait_for(lambda: bool(Run(tmp_path / "run").list_checkpoints()))
        time.sleep(random.uniform(0.05, 0.5))
        process.kill()
        process.wait()
        process = start(tmp_path, "--resume", "run")
        time.sleep(2)
    process.communicate(timeout=240)
    assert process.returncode == 0
    same(tmp_path / "whole", tmp_path / "run")


@posix
@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_a_run_asked_to_stop_saves_and_prints_the_line_that_resumes(tmp_path: Path, number: int) -> None:
    process = start(tmp_path, "--out", "run", *SLOW, "--images", "400000", "--set", "output.checkpoint_every=1000000")
    wait_for(lambda: (tmp_path / "run" / "metrics.jsonl").exists())
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number, err
    assert out.strip() == "stackflower train --resume run" and "saved" in err
    state = checkpoint.read_state(last(tmp_path / "run"))
    assert state.images == state.step * 8 > 0

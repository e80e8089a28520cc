"""Training from the weights of a model."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from conftest import FEW, TINY, settings
from safetensors.torch import load_file

import stackflower as sf
from stackflower.errors import ConfigError
from stackflower.pipeline import Pipeline

BRIEF = [*FEW, "--batch-size", 8, "--mixed-precision", "no", *settings("train.load_size=64", "train.ema_half_life=0")]


def first_weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(min((run / "checkpoints").iterdir()) / "generator.safetensors")


@pytest.mark.parametrize("kind", ["run", "model"])
def test_a_training_starts_from_weights_and_networks(stackflower, trained: Path, tmp_path: Path, kind: str) -> None:
    start = trained
    if kind == "model":
        start = tmp_path / "model"
        Pipeline.from_run(trained, "cpu").save_pretrained(start)
    said = stackflower("train", "--from", start, "--out", "run", "--images", 8, *BRIEF, *settings("output.keep_last=9"))
    assert f"Recipe quickstart, as in {start}" in said.output
    config = sf.Run(tmp_path / "run").read_config()
    assert config.start_from == str(start) and config.generator.options["channels"] == 4
    assert config.generator == sf.Run(trained).read_config().generator
    before, after = load_file(trained / "generator.safetensors"), load_file(tmp_path / "run" / "generator.safetensors")
    moved = torch.cat([(before[name] - after[name]).flatten() for name in before if before[name].is_floating_point()])
    fresh = tmp_path / "fresh"
    stackflower("train", "--out", fresh, "--images", 8, *TINY, *settings("train.ema_half_life=0", "seed=0"))
    other = load_file(fresh / "generator.safetensors")
    away = torch.cat([(before[name] - other[name]).flatten() for name in before if before[name].is_floating_point()])
    assert 0 < moved.norm() < away.norm() / 2  # one step away, rather than new


def test_a_fine_tuning_resumes_without_its_model(stackflower, trained: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(trained, tmp_path / "start")
    stackflower("train", "--from", "start", "--out", "run", "--images", 16, *BRIEF)
    shutil.rmtree(tmp_path / "start")
    stackflower("train", "--resume", "run", "--images", 24)
    assert sf.Run(tmp_path / "run").images == 24
    assert "start_from is" in stackflower("train", "--resume", "run", "--from", trained, code=2).output


def test_an_encoder_trained_with_the_model_is_kept(stackflower, tmp_path: Path) -> None:
    flags = ["--images", 8, *TINY[: TINY.index("text.dim=64") - 1], "--text", "rnn", *settings("text.dim=16")]
    stackflower("train", "--out", "start", *flags)
    Pipeline.from_run(tmp_path / "start", "cpu").save_pretrained(tmp_path / "model")
    stackflower("train", "--from", "model", "--out", "run", "--images", 8, *BRIEF)
    assert (tmp_path / "run/text/encoder.json").read_text() == (tmp_path / "model/text/encoder.json").read_text()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--generator", "stage1", *settings("generator.channels=6")], "generator.dense.weight"),
        (settings("conditioning.dim=5"), r"conditioning.*in the model, .*here"),
        (settings("text.dim=32"), r"×64 in the model, .*×32 here"),
        (["--stage", 2], "is a model of stage 1, not 2"),
    ],
)
def test_sizes_that_differ_are_named(stackflower, trained: Path, change: list[str], message: str) -> None:
    import re

    for more in ([], ["--dry-run"]):
        flags = ["--from", trained, "--out", "run", "--images", 8, *BRIEF, *change, *more]
        said = stackflower("train", *flags, code=2).output
        assert re.search(message, said, re.DOTALL), said
    assert not Path("run").exists()


def test_names_of_nothing_are_refused_from_python() -> None:
    with pytest.raises(ConfigError, match="start_from = 3"):
        sf.train(settings={"start_from": 3}, images=8)

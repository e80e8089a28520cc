"""Stages that refine the images of a run, generators of several resolutions, and parts that do not go together."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY, TINY_NETWORKS, real_data, settings
from PIL import Image
from safetensors.torch import load_file

from stackflower.runs.folder import Run

SECOND = [*TINY, *settings("generator.resolution=32", "generator.channels=4", "generator.blocks=1")]


def second(stackflower, *more: object) -> None:  # type: ignore[no-untyped-def]
    stackflower("train", "--out", "first", "--images", 32, *TINY)
    stackflower("train", "--stage", 2, "--below", "first", "--out", "second", "--images", 32, *SECOND, *more)


def test_stage_two_leaves_stage_one_alone_and_needs_it_no_more(stackflower, tmp_path: Path) -> None:
    second(stackflower)
    below = load_file(tmp_path / "first" / "generator.safetensors")
    kept = load_file(tmp_path / "second" / "generator-stage1.safetensors")
    assert below and below.keys() == kept.keys() and all(torch.equal(kept[name], below[name]) for name in below)
    for path in (tmp_path / "second").rglob("generator*.safetensors"):  # once in the run, in no checkpoint
        assert path.name == "generator-stage1.safetensors" or not load_file(path).keys() & {
            f"previous.{name}" for name in below
        }
    shutil.rmtree(tmp_path / "first")
    stackflower("train", "--resume", "second", "--images", 48)
    stackflower("sample", "second", "a red flower", "--out", "large.png")
    stackflower("sample", "second", "a red flower", "--side-by-side", "--out", "both.png")
    large, both = Image.open(tmp_path / "large.png"), np.asarray(Image.open(tmp_path / "both.png"))
    assert large.size == (32, 32) and both.shape == (32, 64, 3)
    assert np.array_equal(both[:, 32:], np.asarray(large))
    small = both[::2, :32:2]
    assert np.array_equal(small.repeat(2, 0).repeat(2, 1), both[:, :32]), "the stage below, enlarged"


def test_a_third_stage_is_trained_by_the_same_command(stackflower, tmp_path: Path) -> None:
    second(stackflower)
    small = [*settings("generator.channels=4", "discriminator.channels=4", "conditioning.dim=8"), "--batch-size", 8]
    third = [*small, "--mixed-precision", "no", *settings("generator.blocks=1", "data.count=48", "data.validation=16")]
    stackflower("train", "--stage", 3, "--below", "second", "--out", "third", "--images", 16, *third)
    assert "is a run of stage 3, not 2" in stackflower("train", "--resume", "third", "--stage", 2, code=2).output
    assert (
        "The previous stage of third is" in stackflower("train", "--resume", "third", "--below", "first", code=2).output
    )
    stackflower("sample", "third", "a red flower", "--side-by-side", "--out", "all.png")
    assert Image.open(tmp_path / "all.png").size == (192, 64)


def test_resuming_a_stage_over_another_is_exact(stackflower, tmp_path: Path) -> None:
    from running import same

    second(stackflower, "--set", "output.checkpoint_every=16")
    run = Run("second")
    shutil.copytree("second", "again")
    shutil.rmtree(Run("again").list_checkpoints()[-1])
    stackflower("train", "--resume", "again")
    same(tmp_path / "second", tmp_path / "again")
    assert run.read_config().below is not None


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--stage", "2"], "set it with --below RUN"),
        (["--stage", "3", "--below", "first"], "is a run of stage 1, so the next stage is --stage 2"),
        (["--below", "first"], "--stage 2"),
        (["--generator", "stage2"], "refines a previous stage"),
        (["--stage", "2", "--below", "first", "--generator", "dcgan"], "use --generator stage2"),
        (["--stage", "2", "--below", "first", "--text", "rnn"], "encodes captions with ngram"),
        (["--stage", "2", "--below", "nowhere"], "Run folder nowhere does not exist"),
        (["--stage", "2", "--below", "first", "--recipe", "gan-cls"], "has no later stage"),
        (["--stage", "0"], "--stage 0: allowed are 1, 2"),
        (["--discriminator", "began", "--objective", "hinge"], "energy scores"),
        (["--discriminator", "projection", "--objective", "began"], "logit scores"),
        (["--recipe", "gan-cls", "--penalty", "gradient"], "scores an image by the whole batch"),
        (["--recipe", "gan-cls", "--penalty", "matching-aware"], "scores an image by the whole batch"),
        (["--set", "optimizer.generator.plateau=2"], "has none: use --objective began"),
        (["--generator", "tree", "--set", "generator.resolution=32"], "the smallest must be a power of two from 16 up"),
        (["--stage", "2", "--below", "first", "--set", "text.window=1"], "a later stage must encode captions as"),
        (["--stage", "2", "--below", "first", "--set", "text.dim=32"], "a later stage must encode captions as"),
        (["--discriminator", "matching", "--objective", "wasserstein", "--penalty", "none"], "grow without bound"),
        (["--discriminator", "began", "--penalty", "greyscale-structure"], "requires logit scores"),
        (["--discriminator", "began", "--penalty", "gradient"], "requires logit scores"),
        (["--discriminator", "began", "--penalty", "matching-aware"], "requires logit scores"),
        (["--discriminator", "critic", "--penalty", "none"], "grow without bound"),
        (["--text", "char-cnn-rnn", "--set", "text.length=10"], "need at least 50 characters"),
        (["--text", "rnn", "--set", "text.dim=1"], "at least 2"),
        (["--text", "word-vectors", "--set", "text.path=nowhere.txt"], "nowhere.txt does not exist"),
        (["--text", "rnn", "--set", "text.weights=nowhere"], "The text encoder in nowhere is missing"),
    ],
)
def test_impossible_mixes_are_refused_in_a_sentence(
    stackflower, trained: Path, tmp_path: Path, arguments, sentence
) -> None:
    shutil.copytree(trained, tmp_path / "first")
    output = stackflower("train", "--out", "run", *arguments, code=2).output
    assert sentence in output
    assert not (tmp_path / "run").exists()


def test_data_that_has_moved_serves_a_stage_above(stackflower, tmp_path: Path) -> None:
    stackflower("data", "make", "synthetic-flowers", "--out", "here", "--count", 16, "--validation", 8)
    stackflower(
        *("train", "--data", "here", "--out", "first", "--images", 16, *TINY_NETWORKS),
        *settings("train.load_size=20"),
    )
    (tmp_path / "here").rename(tmp_path / "there")
    small = settings("generator.resolution=32", "generator.channels=4", "discriminator.channels=4")
    rest = ["--images", 16, "--batch-size", 8, "--mixed-precision", "no", *small]
    stackflower("train", "--stage", 2, "--below", "first", "--data", "there", "--out", "second", *rest)
    both = [json.loads((tmp_path / run / "config.json").read_text())["load_size"] for run in ("first", "second")]
    assert both == [20, 40], "as much is cropped off"


def test_a_tree_and_stage_two_train_on_real_shards(stackflower) -> None:
    shards = real_data() / "flowers-288-wds" / "validation-000000.tar"
    tiny = ["--data", shards, *TINY_NETWORKS, "--text", "ngram", "--images", 16]
    stackflower("train", "--out", "tree", "--generator", "tree", *tiny, *settings("generator.resolution=64"))
    stackflower("train", "--out", "first", *tiny)
    rest = settings("generator.resolution=64", "generator.channels=4", "train.load_size=70")
    stackflower("train", "--stage", 2, "--below", "first", "--out", "second", "--images", 16, *TINY_NETWORKS, *rest)
    stackflower("sample", "second", "a yellow flower", "--side-by-side", "--out", "both.png")
    with Image.open("both.png") as both:
        assert both.size == (128, 64)

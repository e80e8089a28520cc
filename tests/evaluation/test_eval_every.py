"""Scores of held-out images during training, and the best model that they choose."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from conftest import TINY, settings
from safetensors.torch import load_file, save_file

from stackflower.evaluation.classifier.files import save_classifier
from stackflower.evaluation.classifier.network import DomainClassifier
from stackflower.runs.folder import Run


@pytest.fixture
def scored(tmp_path: Path) -> list[str]:
    """The flags that score every 16 images by a classifier of random weights."""
    torch.manual_seed(0)
    model = DomainClassifier(heads={"label": ("a", "b", "c")}, resolution=16, width=4)
    for layer in model.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            torch.nn.init.constant_(layer.weight, 4)  # so that scores are no rounding errors
    save_classifier(model, tmp_path / "c.safetensors")
    options = ("eval_extractor=domain", "eval_weights=c.safetensors", "eval_samples=12")
    return ["--eval-every", "16", *settings(*(f"output.{option}" for option in options))]


def rows(run: Path) -> list[dict[str, float]]:
    return [row for row in Run(run).read_metrics() if "eval/frechet_distance" in row]


@pytest.mark.parametrize("text", ["ngram", "rnn"])
def test_the_best_model_is_kept_and_scores_are_evals(stackflower, tmp_path: Path, scored: list[str], text: str) -> None:
    output = stackflower("train", "--out", "run", "--images", 64, "--text", text, *TINY, *scored).output
    assert "16 images: " in output and "frechet_distance" in output
    found, folder = rows(tmp_path / "run"), Run(tmp_path / "run")
    assert [row["images"] for row in found] == [16, 32, 48, 64]
    best = folder.read_best()
    assert best is not None
    lowest = min(found, key=lambda row: row["eval/frechet_distance"])
    assert best["images"] == lowest["images"]
    assert best["value"] == pytest.approx(lowest["eval/frechet_distance"], rel=1e-4)
    assert folder.best_text_folder(best["images"]).is_dir() == (text == "rnn")

    scoring = ["--extractor", "domain", "--weights", "c.safetensors", "--metrics", "is,fid", "--samples", 12, "--json"]
    last = json.loads(stackflower("eval", "run", "--split", "validation", *scoring).stdout)
    assert last["frechet_distance"] == pytest.approx(found[-1]["eval/frechet_distance"], rel=1e-4)
    again = json.loads(stackflower("eval", "run", "--split", "validation", "--checkpoint", "best", *scoring).stdout)
    assert again["frechet_distance"] == pytest.approx(best["value"], rel=1e-4)
    assert f"after {best['images']} images" in again["scored"]["weights"]
    stackflower("sample", "run", "a flower", "--checkpoint", "best", "--out", "best.png")
    stackflower("sample", "run", "a flower", "--out", "last.png")
    same = (tmp_path / "best.png").read_bytes() == (tmp_path / "last.png").read_bytes()
    assert same == (best["images"] == 64)


def test_scores_change_nothing_in_the_training_and_go_on_with_it(
    stackflower, tmp_path: Path, scored: list[str]
) -> None:
    steady = settings("optimizer.generator.decay_from=1", "optimizer.discriminator.decay_from=1")  # whatever the length
    stackflower("train", "--out", "plain", "--images", 48, *TINY, *steady)
    stackflower("train", "--out", "scored", "--images", 48, *TINY, *steady, *scored)
    stackflower("train", "--out", "resumed", "--images", 24, *TINY, *steady, *scored)
    stackflower("train", "--resume", "resumed", "--images", 48)
    plain, *others = (load_file(tmp_path / run / "generator.safetensors") for run in ("plain", "scored", "resumed"))
    for other in others:
        assert all(torch.equal(value, other[name]) for name, value in plain.items())
    assert [row for row in rows(tmp_path / "resumed") if row["images"] % 16 == 0] == rows(tmp_path / "scored")
    best = Run(tmp_path / "resumed").read_best()
    assert best is not None and best["value"] == pytest.approx(
        min(row["eval/frechet_distance"] for row in rows(tmp_path / "resumed")), rel=1e-4
    )


def test_a_higher_score_may_be_the_better_one(stackflower, tmp_path: Path, scored: list[str]) -> None:
    stackflower("train", "--out", "run", "--images", 48, *TINY, *scored, *settings("output.best=is"))
    best = Run(tmp_path / "run").read_best()
    highest = max(row["eval/inception_score_mean"] for row in rows(tmp_path / "run"))
    assert best is not None and best["value"] == pytest.approx(highest, rel=1e-4)


def test_a_worse_model_does_not_replace_the_best(stackflower, tmp_path: Path, scored: list[str]) -> None:
    stackflower("train", "--out", "run", "--images", 32, *TINY, *scored)
    folder = Run(tmp_path / "run")
    best = folder.read_best()
    assert best is not None
    better = {**best, "value": -1.0}  # at the same number of images, as after a return to a checkpoint
    save_file(load_file(folder.best_weights), folder.best_weights, {"best": json.dumps(better)})
    stackflower("train", "--resume", "run", "--images", 48)
    assert folder.read_best() == better


def test_scores_of_another_protocol_do_not_compare(stackflower, tmp_path: Path, scored: list[str]) -> None:
    stackflower("train", "--out", "run", "--images", 32, *TINY, *scored)
    folder = Run(tmp_path / "run")
    first = folder.read_best()
    stackflower("train", "--resume", "run", "--images", 40, *settings("output.best=is"))
    second = folder.read_best()
    assert first is not None and (folder.path / f"generator-best-{first['images']:09d}.safetensors").exists()
    assert first is not None and second is not None
    assert (
        first["protocol"]["metric"] == "fid" and second["protocol"]["metric"] == "is" and math.isfinite(second["value"])
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["--eval-every", "16", *settings("output.best=diversity")],
            "the metrics that can select the best model are cosine, fid, is, kid, ms-ssim, nearest, prdc, r-precision",
        ),
        (["--eval-every", "16", *settings("output.best=kid")], "is not among output.eval_metrics"),
        (
            ["--eval-every", "16", *settings('output.eval_metrics=["fid","kidd"]')],
            "output.eval_metrics: unknown metric 'kidd'. Did you mean 'kid'? Allowed: captions,",
        ),
        (["--eval-every", "0"], "--eval-every"),
    ],
)
def test_scores_that_can_not_choose_a_best_model_are_refused(stackflower, arguments: list[str], said: str) -> None:
    assert said in stackflower("train", "--out", "run", "--images", 16, *TINY, *arguments, code=2).output


def test_without_a_held_out_split_or_a_best_model_a_sentence_says_so(
    stackflower, tmp_path: Path, trained: Path, scored: list[str]
) -> None:
    stackflower("data", "make", "synthetic-flowers", "--out", "d", "--count", 16, "--validation", 8, "--test", 8)
    for split in ("validation", "test"):
        (tmp_path / "d" / split).rename(tmp_path / split)
    tiny = [*TINY[: TINY.index("--mixed-precision") + 2], *settings("text.dim=64")]
    arguments = ["train", "--data", "d", "--recipe", "quickstart", "--out", "run", "--images", 16, *tiny, *scored]
    assert "no split validation or test" in stackflower(*arguments, code=2).output
    assert not (tmp_path / "run").exists()
    for command in (("sample", trained, "a flower"), ("eval", trained)):
        assert "--set output.eval_every=IMAGES" in stackflower(*command, "--checkpoint", "best", code=2).output
    (trained / "generator-best.safetensors").write_bytes(b"damaged")
    try:
        assert "no best model" in stackflower("sample", trained, "a flower", "--checkpoint", "best", code=2).output
    finally:
        (trained / "generator-best.safetensors").unlink()


def test_metrics_that_cannot_be_computed_are_refused_before_training(
    stackflower, tmp_path: Path, scored: list[str]
) -> None:
    for flags, said in (
        (settings("output.eval_samples=1"), "needs at least 2 generated and 2 real images"),
        (settings('output.eval_metrics=["fid","prdc"]', "output.eval_samples=4"), "more than 5"),
    ):
        output = stackflower("train", "--out", "run", "--images", 16, *TINY, *scored, *flags, code=2).output
        assert said in output and "Change output.eval_metrics" in output and not (tmp_path / "run").exists()

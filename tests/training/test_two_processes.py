"""Two processes train, sample and score as one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from conftest import ATTENTION, TINY, settings
from running import RELATIVISTIC_ADA, gloo, last, launch, two, with_features
from safetensors.torch import load_file


@pytest.mark.parametrize(
    "norm",
    [
        [],
        settings("generator.norm=none", "discriminator.norm=none"),
        ["--discriminator", "began"],
        ["--text", "rnn", *settings("generator.norm=virtual")],
        [
            *("PROJECTED", "--augmentation", "diffaugment", "--penalty", "feature-matching=1"),
            *settings("train.contrasted=8"),
        ],
        RELATIVISTIC_ADA,
        [*ATTENTION, "--text", "rnn"],
    ],
    ids=["synchronised", "off", "began", "joint-text", "projected", "relativistic-ada", "attention"],
)
def test_two_processes_train_as_one(tmp_path: Path, stackflower, projected_flags: list[str], norm: list[str]) -> None:
    """One step with SGD-like transparency: Adam's first moment after one step is (1 − β₁) times the gradient."""
    arguments = with_features(
        [*TINY, *norm, "--images", "8"], projected_flags
    )  # with quickstart's contrast, deviation and penalties
    stackflower("train", "--out", "one", *arguments)
    result = gloo(tmp_path, "train", "--out", "two", *arguments)
    assert result.returncode == 0, result.stderr[-3000:]
    assert json.loads((last(tmp_path / "two") / "state.json").read_text())["processes"] == 2
    tolerance = 1e-3 if "began" in norm else 1e-5  # the slope of |x| turns over with the last bit of x
    optimizers = [path.stem for path in last(tmp_path / "one").glob("optimizer-*.safetensors")]
    assert len(optimizers) == (3 if "rnn" in norm else 2)
    for name in optimizers:
        one, two = (load_file(last(tmp_path / run) / f"{name}.safetensors") for run in ("one", "two"))
        gradients = [key for key in one if key.endswith("exp_avg")]
        scale = max(float(one[key].abs().max()) for key in gradients)
        assert gradients and scale > 0
        for key in gradients:
            assert (one[key] - two[key]).abs().max() <= tolerance * max(scale, 1e-3), key
    for key, value in (one_side := load_file(last(tmp_path / "one") / "discriminator-16.safetensors")).items():
        if key.startswith("objective."):  # k, and what is known of the epoch's errors
            other = load_file(last(tmp_path / "two") / "discriminator-16.safetensors")[key]
            assert torch.allclose(value, other, atol=1e-6), key
    assert ("objective.k" in one_side) == ("began" in norm)


DROPS = """
import sys
import torch
from stackflower.objectives.began import BoundaryEquilibrium
from stackflower.objectives.base import Pairs
from stackflower.stages.base import Text, Verdict

rank, world = 0, 1
if len(sys.argv) > 1:
    torch.distributed.init_process_group("gloo")
    rank, world = torch.distributed.get_rank(), 2
errors = torch.tensor([0.2, 9.0, 8.0, 7.0, 0.1, 0.3, 0.4, 0.6])  # most of the first process's, none of the other's
own = torch.nn.Parameter(errors.clone())
goal = BoundaryEquilibrium(threshold=2.0)
goal.outliers.limit.fill_(1.0)
mine = slice(rank * 8 // world, (rank + 1) * 8 // world)
words = Text(torch.zeros(8, 1), torch.zeros(8, 1))
critic = lambda images, texts: [Verdict(own[mine] * scale) for scale in (1.0, 1.2)[: len(texts)]]
terms = goal.discriminator_terms(critic, Pairs(torch.zeros(8, 3, 1, 1), torch.zeros(8, 3, 1, 1), words, words, words))
(terms["real"] + terms["negative"]).backward()
if world > 1:
    torch.distributed.all_reduce(own.grad)
    own.grad /= world  # as gradients are exchanged
if rank == 0:
    print([round(v, 6) for v in [*own.grad.tolist(), *goal.outliers.statistics.tolist(), goal.outliers.dropped.item()]])
"""


def test_two_processes_leave_out_the_pictures_that_one_does(tmp_path: Path) -> None:
    (tmp_path / "drops.py").write_text(DROPS, encoding="utf-8")
    found = []
    for result in (launch(tmp_path, "drops.py"), two(tmp_path, "drops.py", "two")):
        assert result.returncode == 0, result.stderr[-3000:]
        found.append(json.loads(result.stdout.splitlines()[-1]))
    assert found[0] == pytest.approx(found[1], abs=1e-5) and found[0][-1] == 3
    assert found[0][:5] == pytest.approx([0.4 / 5, 0, 0, 0, 0.4 / 5], abs=1e-5)


def test_two_processes_sample_and_score_as_one(tmp_path: Path, stackflower, trained: Path) -> None:
    captions = ["a red flower", "a blue flower with six petals", "white petals"]
    for way in ("plain", "best"):  # nine pictures: one process has one more to judge than the other
        options = ["--per-caption", "3", *(["--best-of", "2", "--batch-size", "4"] if way == "best" else [])]
        stackflower("sample", trained, *captions, *options, "--out", f"{way}-one")
        result = gloo(tmp_path, "sample", str(trained), *captions, *options, "--out", f"{way}-two")
        assert result.returncode == 0, result.stderr[-3000:]
        one, two = (
            {path.name: path.read_bytes() for path in (tmp_path / f"{way}-{n}").iterdir()} for n in ("one", "two")
        )
        assert one == two and len(one) == 10
    stackflower(
        "data",
        "make",
        "synthetic-flowers",
        "--out",
        "data",
        "--count",
        40,
        "--validation",
        24,
        "--test",
        8,
        "--resolution",
        64,
    )
    stackflower(
        "train-classifier",
        "--data",
        "data",
        "--out",
        "c.safetensors",
        "--resolution",
        16,
        "--network",
        "plain",
        "--epochs",
        1,
        "--text",
        "ngram",
    )
    arguments = ["eval", str(trained), "--extractor", "domain", "--weights", "c.safetensors", "--splits", "2"]
    arguments += ["--data", "data", "--split", "validation"]
    stackflower("sample", trained, "--captions", "data/validation/metadata.jsonl", "--out", "drawn")
    every = "is,fid,kid,prdc,captions,diversity,cosine,similarity,nearest,ms-ssim"
    folder = ["eval", "--images", "drawn", *arguments[2:], "--resolution", "16"]
    for command in (
        [*arguments, "--metrics", every],
        folder,
        ["eval", "--real", "test", *arguments[2:], "--resolution", "16"],
    ):
        alone = stackflower(*command).stdout
        result = gloo(tmp_path, *command)
        assert result.returncode == 0, result.stderr[-3000:]
        assert result.stdout.splitlines() == alone.splitlines(), "to the last printed digit"

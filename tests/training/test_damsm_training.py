"""The DAMSM from the training of its encoders to the scores of a run that was trained against it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from conftest import ATTENTION, TINY_NETWORKS, settings
from running import gloo, last, same, same_weights
from safetensors.torch import load_file
from sample_data import write_colours

import stackflower as sf
from stackflower.errors import ConfigError
from stackflower.evaluation.extractors.damsm import DamsmExtractor
from stackflower.runs.folder import Run

FEW = settings("data.count=32", "data.validation=16", "data.test=120")
PENALISED = ["--recipe", "attngan-mini", *TINY_NETWORKS, *ATTENTION, *FEW, "--text", "matched", "--penalty", "damsm=5"]


@pytest.fixture
def matched(stackflower, tmp_path: Path) -> Path:
    """Train both encoders of a DAMSM for a few steps."""
    flags = [*FEW, "--loss", "damsm", "--features", "none", "--batch-size", 8, "--epochs", 2]
    stackflower("train-text", "--data", "synthetic-flowers", *flags, *settings("text.dim=16"), "--out", "matched")
    return tmp_path / "matched"


def test_captions_find_their_images_after_a_short_training(stackflower, tmp_path: Path) -> None:
    write_colours(tmp_path / "flowers")
    flags = ["--loss", "damsm", "--features", "none", "--batch-size", 16, "--epochs", 15, *settings("text.dim=32")]
    output = stackflower("train-text", "--data", "flowers", *flags, "--out", "matched", "--json").output
    found = json.loads(output[output.index("{") :])
    assert found["candidates"] == 32 and found["retrieval_accuracy"] >= 0.1, "the first of the four of its colour"
    assert found["text"] == {"name": "rnn", "dim": 32, "loss": "damsm"}
    assert json.loads((tmp_path / "matched" / "image-encoder.json").read_text())["damsm"]["gamma1"] == 4.0


def test_a_penalised_run_resumes_exactly_and_is_flattered_by_the_extractor(
    stackflower, tmp_path: Path, matched: Path
) -> None:
    stackflower("train", "--out", "run", "--images", 32, *PENALISED, *settings("output.checkpoint_every=16"))
    line = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    assert line["generator/damsm-32"] > 0 and "generator/damsm-16" not in line, "the largest images only"
    names = {name for path in last(tmp_path / "run").glob("*.safetensors") for name in load_file(path)}
    assert not any("damsm" in name or "regions" in name for name in names), "it is not saved with the run"
    shutil.copytree("run", "parts")
    shutil.rmtree(Run("parts").list_checkpoints()[-1])
    (tmp_path / "parts" / "generator.safetensors").unlink()
    stackflower("train", "--resume", "parts")
    same(tmp_path / "run", tmp_path / "parts")
    scored = ["--extractor", "damsm", "--weights", "matched", "--metrics", "r-precision,similarity"]
    output = stackflower("eval", "run", *scored).output
    assert "R-precision" in output and "trained against this extractor by the penalty damsm" in output
    stackflower("train", "--out", "plain", "--images", 8, *PENALISED[: PENALISED.index("--penalty")])
    assert "trained against" not in stackflower("eval", "plain", *scored).output


def test_two_processes_are_penalised_as_one(stackflower, tmp_path: Path, matched: Path) -> None:
    sgd = settings(
        *(f"optimizer.{name}.{value}" for name in ("generator", "discriminator") for value in ("name=sgd", "lr=0.01"))
    )
    flags = [*PENALISED, "--images", "16", "--penalty", "damsm=5", *sgd]
    stackflower("train", "--out", "one", *flags)
    done = gloo(tmp_path, "train", "--out", "two", *flags)
    assert done.returncode == 0, done.stderr[-3000:]
    same_weights(tmp_path / "one", tmp_path / "two", 2e-5)
    without = [flag for flag in flags if flag not in ("--penalty", "damsm=5")]
    stackflower("train", "--out", "plain", *without, *settings("penalties.mode-seeking.weight=0"))
    one, plain = (load_file(tmp_path / run / "generator.safetensors") for run in ("one", "plain"))
    assert max(float((one[key] - plain[key]).abs().max()) for key in one) > 1e-4, "the penalty has an effect"


@pytest.mark.parametrize("text", [{"name": "ngram"}, {"name": "rnn"}])
def test_a_penalty_without_its_image_encoder_is_refused(text: dict[str, str]) -> None:
    sentence = "penalty 'damsm' needs an image encoder that was trained with the text encoder"
    with pytest.raises(ConfigError, match=sentence):
        sf.train("attngan-mini", data={"name": "folder", "path": "missing"}, text=text, penalty="damsm")


def test_the_damsm_needs_words_and_says_what_its_options_are(stackflower) -> None:
    damsm = ["--loss", "damsm", "--features", "none"]
    for flags, message in (
        ([*damsm, "--text", "char-cnn-rnn"], "has no words; use --text rnn"),
        ([*damsm, "--set", "damsm.gamma1=-1"], "damsm.gamma1 = -1"),
        (["--set", "damsm.gamma1=3"], "--loss damsm"),
        (["--set", "text.loss=damsm"], "text.loss = 'damsm'"),
    ):
        output = stackflower("train-text", "--data", "missing", *flags, "--out", "x", code=2).output
        assert message in output, output


def test_the_extractor_compares_images_with_captions(stackflower, matched: Path) -> None:
    extractor = DamsmExtractor(weights=str(matched))
    images = torch.randint(0, 256, (3, 3, 20, 20), dtype=torch.uint8)
    vectors, texts = extractor(images).vectors, extractor.embed(["a red flower", "a blue one"])
    assert vectors.shape == (3, 16) and texts.shape == (2, 16)
    assert torch.allclose(vectors.norm(dim=1), torch.ones(3), atol=1e-5)
    assert torch.allclose(extractor(images[1:2]).vectors[0], vectors[1], atol=1e-5)

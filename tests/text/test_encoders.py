"""Every registered encoder of captions, and tags as a condition."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from conftest import TINY_NETWORKS, settings
from sample_data import write_images
from tiny_parts import CAPTIONS, FILES, make_encoder

from stackflower import registry
from stackflower.errors import DataError
from stackflower.text.encoders.multi_hot import MultiHotEncoder


@pytest.mark.parametrize("name", sorted(set(registry.list_parts("text")) - {"huggingface"}))
def test_every_text_encoder_is_seeded_and_survives_a_file(name: str, tmp_path: Path) -> None:
    encoder = make_encoder(name, tmp_path)
    captions = CAPTIONS
    table = encoder.encode(captions)
    assert table.shape == (len(captions), encoder.dim) and table.dtype == torch.float32
    assert torch.allclose(table.norm(dim=1), torch.ones(len(captions)), atol=1e-5)
    assert torch.allclose(table[0], table[4], atol=1e-6)
    assert torch.allclose(encoder.encode(captions[:1]), table[:1], atol=1e-5)
    assert encoder(captions).square().mean(1).sqrt() == pytest.approx([1.0] * len(captions), abs=1e-4)
    assert encoder.fingerprint() == make_encoder(name, tmp_path).fingerprint()
    assert list(encoder.find_dropped(["a red flower"]).losses) == []
    dropped = encoder.find_dropped(["a zyx red flower", "flower zyx!"])
    parts = [part for loss in dropped.losses.values() for part in loss.parts]
    known = {"multi-hot": ["a zyx red flower", "flower zyx!"], "word-vectors": ["zyx"], "rnn": ["zyx"]}
    assert parts == known.get(name, [])
    encoder.save(tmp_path / "kept")
    again = registry.create("text", name, **({"path": "gone.txt"} if name in FILES else {}))
    again.restore(tmp_path / "kept")
    again.fit(["something else"])
    assert torch.allclose(again.encode(captions), table, atol=1e-6) and again.fingerprint() == encoder.fingerprint()


def test_tags_become_a_multi_hot_condition(tmp_path: Path, stackflower) -> None:
    encoder = MultiHotEncoder(tags=8)
    encoder.fit(["long hair, blue eyes", "Blue  Eyes,smile", "blue eyes"])
    one, two = encoder.encode(["blue eyes", "smile, blue eyes, unknown"])
    assert one.tolist() == [1.0] + [0.0] * 7 and two.count_nonzero() == 2 and two.norm() == pytest.approx(1)
    with pytest.raises(DataError, match="has none of the 3 tags of the training data"):
        encoder.encode(["unknown"])
    root = write_images(tmp_path / "data", *(f"{number}.jpg" for number in range(8)))
    for number in range(8):
        (root / f"{number}.txt").write_text(f"red hair\nsmile\ntag {number % 3}")
    flags = ["--data", "data", "--images", 8, *TINY_NETWORKS, "--text", "multi-hot", *settings("text.tags=16")]
    stackflower("train", "--out", "run", *flags)
    said = stackflower("sample", "run", "red hair, tag 1", "--out", "x.png").output
    assert "drops" not in said
    said = stackflower("sample", "run", "red hair, blue hare, tag 1", "red hair, tag 7", "--out", "y").output
    assert (
        "Warning: The text encoder multi-hot drops 2 tags outside its vocabulary (blue hare, tag 7) in 2 of 2 "
        "distinct captions, such as 'red hair, blue hare, tag 1'." in said
    )

"""Embeddings that were computed elsewhere, read from files of several kinds."""

from __future__ import annotations

import json
import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import TINY_NETWORKS, settings
from safetensors.numpy import save_file
from sample_data import picture, t7, write_images

from stackflower.errors import ConfigError, DataError
from stackflower.formats.pickles import load_npy
from stackflower.text.encoders.multi_hot import MultiHotEncoder
from stackflower.text.encoders.ngram import NgramEncoder
from stackflower.text.encoders.precomputed import PrecomputedEncoder

CAPTIONS = [["a red flower", "red petals"], ["a blue flower", "blue petals"]]


@pytest.mark.parametrize("form", ["npy", "safetensors", "pickle", "array pickle", "t7", "t7 folder", "embed"])
def test_embeddings_computed_elsewhere_are_found_by_their_captions(tmp_path: Path, stackflower, form: str) -> None:
    from safetensors.numpy import save_file

    table = np.random.default_rng(0).normal(size=(2, 2, 12)).astype(np.float32)
    flat, lines = table.reshape(4, 12), [caption for own in CAPTIONS for caption in own]
    options: dict[str, Any] = {}
    (tmp_path / "captions.txt").write_text("\n".join(lines) + "\n")
    if form == "npy":
        np.save(tmp_path / "captions.npy", flat)
        path = tmp_path / "captions.npy"
    elif form == "safetensors":
        path = tmp_path / "x.safetensors"
        save_file({"whatever": table}, path)
        options["captions"] = str(tmp_path / "captions.txt")
    elif form in ("pickle", "array pickle", "t7 folder"):
        root = tmp_path / "text_c10" / "class_1"
        root.mkdir(parents=True)
        for name, own in zip("ab", CAPTIONS, strict=True):
            (root / f"{name}.txt").write_text("\n".join([*own, "and one more"]))
        (tmp_path / "filenames.pickle").write_bytes(pickle.dumps(["class_1/a", "class_1/b"], 2))
        path = tmp_path / "char-CNN-RNN-embeddings.pickle"
        path.write_bytes(pickle.dumps(list(table) if form == "pickle" else table, 2))
        if form == "t7 folder":
            path = tmp_path / "t7" / "class_1"
            path.mkdir(parents=True)
            for name, own in zip("ab", table, strict=True):
                (path / f"{name}.t7").write_bytes(t7({"txt": np.ascontiguousarray(own.T)}))
            path = path.parent
        options["captions"] = str(tmp_path / "text_c10")
    elif form == "t7":
        path = tmp_path / "captions.t7"
        path.write_bytes(t7(np.ascontiguousarray(table.swapaxes(1, 2))))
    else:
        stackflower("embed", *lines, "--out", "e.safetensors")
        path, flat = tmp_path / "e.safetensors", NgramEncoder().encode(lines).numpy()
    encoder = PrecomputedEncoder(path=str(path), **options)
    assert encoder.dim == flat.shape[1]
    found = encoder.encode(["blue petals", " a  red flower "])
    wanted = flat[[3, 0]] / np.linalg.norm(flat[[3, 0]], axis=1, keepdims=True)
    assert np.allclose(found, wanted, atol=1e-3)
    with pytest.raises(DataError, match=r"no embedding of 'a red flowr', .* nearest caption: 'a red flower'"):
        encoder.encode(["a red flowr"])
    other = PrecomputedEncoder(path="nowhere")
    encoder.save(tmp_path / "kept")
    other.restore(tmp_path / "kept")
    assert torch.equal(other.encode(lines), encoder.encode(lines)) and other.fingerprint() == encoder.fingerprint()


def test_a_run_trains_on_embeddings_computed_elsewhere_and_keeps_them(tmp_path: Path, stackflower) -> None:
    root = write_images(tmp_path / "data", *(f"{number}.jpg" for number in range(8)))
    captions = [f"flower {number}" for number in range(8)]
    (root / "metadata.jsonl").write_text(
        "\n".join(json.dumps({"file_name": f"{n}.jpg", "text": text}) for n, text in enumerate(captions))
    )
    np.save(tmp_path / "e.npy", np.random.default_rng(1).normal(size=(8, 20)))
    text = ["--text", "precomputed", *settings("text.path=e.npy", "text.captions=data/metadata.jsonl")]
    stackflower("train", "--data", "data", "--images", 8, "--out", "run", *TINY_NETWORKS, *text)
    (tmp_path / "e.npy").unlink()  # a run needs nothing but its folder
    stackflower("sample", "run", "flower 3", "--out", "x.png")
    said = stackflower("sample", "run", "a tree", "--out", "x.png", code=2).output
    assert "has no embedding of 'a tree', only those of 8 other captions" in said
    np.save(tmp_path / "e.npy", np.zeros((7, 20)))
    said = stackflower("train", "--data", "data", "--images", 8, "--out", "other", *TINY_NETWORKS, *text, code=2).output
    assert "has 7 embeddings, but data/metadata.jsonl has 8 captions" in said
    said = stackflower(
        "train",
        "--data",
        "data",
        "--images",
        8,
        "--out",
        "other",
        *TINY_NETWORKS,
        *text[:2],
        *settings("text.path=none.npy"),
        code=2,
    ).output
    assert "none.npy does not exist" in said


def test_embeddings_that_would_take_all_memory_are_refused(tmp_path: Path) -> None:
    nested: Any = [1.0]
    for _ in range(40):
        nested = [nested, nested]
    for name, value in (("bomb", nested), ("ragged", [[1.0], [1.0, 2.0]]), ("arrays", [np.ones(3), np.ones(4)])):
        (tmp_path / f"{name}.pickle").write_bytes(pickle.dumps(value, 2))
        (tmp_path / f"{name}.txt").write_text("a\n")
        with pytest.raises(DataError, match="does not hold embeddings"):
            PrecomputedEncoder(path=str(tmp_path / f"{name}.pickle")).encode(["a"])
    for header in (b"{'descr': '<f8'", b"{[]: 1}\n"):
        with pytest.raises(DataError, match=r"can't be read as a \.npy file"):
            load_npy(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header, "x")


def test_files_that_hold_no_embeddings_are_refused(tmp_path: Path, stackflower) -> None:
    (tmp_path / "x.txt").write_text("a\nb\n")
    np.save(tmp_path / "x.npy", np.full((2, 3), 1e300))
    with pytest.raises(DataError, match="not finite"):
        PrecomputedEncoder(path=str(tmp_path / "x.npy")).encode(["a"])
    for captions in ('"ab"', "[" * 100_000):
        save_file({"x": np.ones((2, 3), np.float32)}, tmp_path / "x.safetensors", {"captions": captions})
        with pytest.raises(DataError, match="must hold exactly one tensor of embeddings"):
            PrecomputedEncoder(path=str(tmp_path / "x.safetensors")).encode(["a"])
    (tmp_path / "c.jsonl").write_text('{"text": true}\n')
    np.save(tmp_path / "x.npy", np.ones((1, 3)))
    with pytest.raises(DataError, match="must be a string or a list of strings"):
        PrecomputedEncoder(path=str(tmp_path / "x.npy"), captions=str(tmp_path / "c.jsonl")).encode(["a"])
    (tmp_path / "filenames.pickle").write_bytes(pickle.dumps([""]))
    (tmp_path / "text").mkdir()
    with pytest.raises(DataError, match="has no captions of"):
        PrecomputedEncoder(path=str(tmp_path / "x.npy"), captions=str(tmp_path / "text")).encode(["a"])
    with pytest.raises(ConfigError, match=r"text\.separator is empty"):
        MultiHotEncoder(separator="")


@pytest.mark.parametrize("out", ["e.safetensors", "e.npy"])
def test_what_embed_writes_is_read_back(tmp_path: Path, stackflower, out: str) -> None:
    """All captions of a data set, several an image, as the encoder itself embeds them; a run can be trained on them."""
    rows, lines = [], []
    for number in range(8):
        picture(tmp_path / "data" / f"{number}.png")
        own = [f"flower {number}", f"bloom {number}"]
        rows.append(json.dumps({"file_name": f"{number}.png", "text": own}))
        lines += own
    metadata = tmp_path / "data" / "metadata.jsonl"
    metadata.write_text("\n".join(rows))
    stackflower("embed", "--captions", "data/metadata.jsonl", "--text", "ngram", "--out", out)
    beside = {} if out == "e.safetensors" else {"captions": "data/metadata.jsonl"}
    encoder, plain = PrecomputedEncoder(path=out, **beside), NgramEncoder()
    assert encoder.dim == plain.dim
    assert torch.allclose(encoder.encode(lines), plain.encode(lines), atol=1e-3)
    assert torch.allclose(encoder.encode(lines[5:6]), plain.encode(["bloom 2"]), atol=1e-3), "each by its caption"
    text = ["--text", "precomputed", *settings(f"text.path={out}", *(f"text.{k}={v}" for k, v in beside.items()))]
    stackflower("train", "--data", "data", "--images", 8, "--out", "run", *TINY_NETWORKS, *text)

"""The cache of prepared images: opened when nothing changed, made again when something did."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch
from conftest import TINY, real_data, settings
from safetensors.torch import load_file
from sample_data import write_picture

from stackflower.data.prepared import prepare
from stackflower.data.sources.folder import FolderSource


def test_the_second_start_opens_the_cache(good: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = prepare(FolderSource(path=str(good)), "train", 32)
    monkeypatch.setattr(FolderSource, "fill", lambda *arguments: pytest.fail("decoded twice"))
    began = time.monotonic()
    second = prepare(FolderSource(path=str(good)), "train", 32)
    assert time.monotonic() - began < 1 and torch.equal(first.images, second.images) and first.rows == second.rows


def test_a_changed_picture_or_caption_is_noticed(good: Path) -> None:
    before = FolderSource(path=str(good)).fingerprint("train")
    write_picture(good / "3.jpg", size=(100, 80))
    changed = FolderSource(path=str(good)).fingerprint("train")
    (good / "metadata.jsonl").write_text(
        (good / "metadata.jsonl").read_text(encoding="utf-8").replace("rouge", "bleue"), encoding="utf-8"
    )
    assert len({before, changed, FolderSource(path=str(good)).fingerprint("train")}) == 3


def test_real_flowers_are_read_and_their_cache_opens_at_once() -> None:
    source = FolderSource(path=str(real_data() / "flowers-96"))
    data = prepare(source, "validation", 76)
    assert len(data.images) == 737 and all(len(captions) == 6 for captions in data.captions)
    began = time.monotonic()
    prepare(FolderSource(path=str(real_data() / "flowers-96")), "validation", 76)
    assert time.monotonic() - began < 1


def test_a_damaged_cache_is_made_again(stackflower, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STACKFLOWER_CACHE", str(tmp_path / "cache"))
    arguments = ("train", "--images", 8, *TINY, *settings("data.count=24"))
    stackflower(*arguments, "--out", "first")
    damage = {"rows.jsonl": b'{"captions": [], "asked": 1}', "images.npy": b"\x93NUMPY", "*.safetensors": b"half"}
    for number, (name, content) in enumerate(damage.items()):
        (path,) = (tmp_path / "cache").rglob(name)
        path.write_bytes(content)
        stackflower(*arguments, "--out", f"again-{number}")
        one, two = (load_file(tmp_path / run / "generator.safetensors") for run in ("first", f"again-{number}"))
        assert all(torch.equal(one[key], two[key]) for key in one), name

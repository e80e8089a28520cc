"""Batches of a stream of shards: each sample once a pass, whoever asks."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sample_data import COUNTS, write_shards

from stackflower.data.opening import open_source
from stackflower.data.sources.stream import ShardStream
from stackflower.errors import DataError
from stackflower.stages.base import Words
from stackflower.text.encoders.ngram import NgramEncoder
from stackflower.training.batches.batch import Batch, Drawing
from stackflower.training.batches.decoding import CaptionDraws, Decoder
from stackflower.training.batches.order import StreamOrder
from stackflower.training.batches.streamed import POOL_SIZE, EmbeddingCache, StreamedBatches, WordCache


@pytest.mark.parametrize("batch", [1, 4, 6, 7, 16, 64])
@pytest.mark.parametrize("window", [1, 10, 1000])
def test_each_pass_has_every_sample_once(batch: int, window: int) -> None:
    order = StreamOrder(list(COUNTS), 3, batch, window)
    count = len(order)
    seen: list[tuple[int, int]] = []
    for first in range(0, 3 * count + batch, batch):
        shards, samples = order(first, range(batch))
        seen += zip(shards.tolist(), samples.tolist(), strict=True)
        halves = [order(first, range(batch // 2)), order(first, range(batch // 2, batch))]
        assert np.concatenate([half[0] for half in halves]).tolist() == shards.tolist()
        assert np.concatenate([half[1] for half in halves]).tolist() == samples.tolist()
    every = {(shard, sample) for shard, size in enumerate(COUNTS) for sample in range(size)}
    passes = [seen[epoch * count : (epoch + 1) * count] for epoch in range(3)]
    assert all(set(one) == every for one in passes) and passes[0] != passes[1] != passes[2]
    other = StreamOrder(list(COUNTS), 4, batch, window)
    again = [pair for first in range(0, count, batch) for pair in zip(*other(first, range(batch)), strict=True)]
    assert again[:count] != passes[0], "by the seed"


def test_a_process_opens_its_own_shards_alone() -> None:
    """Two of them share but the shards at the borders of lanes."""
    order = StreamOrder([100] * 80, 0, 64, 50)
    opened: list[set[int]] = []
    for rows in (range(32), range(32, 64)):
        opened.append({int(shard) for first in range(0, 7936, 64) for shard in order(first, rows)[0]})
    assert len(opened[0] & opened[1]) <= 1 and len(opened[0] | opened[1]) == 80


def batches(pattern: str, workers: int = 0, batch: int = 8, **options: Any) -> StreamedBatches:
    source = open_source(pattern)
    assert isinstance(source, ShardStream)
    order = StreamOrder(source.count("train"), 0, batch, 6)
    usual: dict[str, Any] = {"resolution": 16, "seed": 0, "draw_noise": lambda n, g: torch.randn(n, 3, generator=g)}
    device = torch.device("cpu")
    encoder = NgramEncoder(dim=64)
    drawing = Drawing(**(usual | options))
    captions = CaptionDraws(0, drawing.averaged, encoder if workers else None, drawing.words)
    decoder = Decoder(source.reader("train"), order, captions, 18, workers)
    cache = EmbeddingCache(encoder, device)
    return StreamedBatches(decoder, cache, drawing, device, words=WordCache(encoder, device))


def numbers(batch: Batch) -> list[int]:
    return ((batch.images.mean((1, 2, 3)) + 1) * 127.5 / 4).round().int().tolist()


def test_batches_of_a_stream_hold_each_sample_with_its_own_texts(tmp_path: Path) -> None:
    make = batches(write_shards(tmp_path), workers=2, hard_negatives=3)
    seen: list[int] = []
    encoder = NgramEncoder(dim=64)
    texts = {kind: encoder([f"kind {kind}"])[0] for kind in range(5)} | {
        f"f{n}": encoder([f"flower {n}"])[0] for n in range(56)
    }
    for first in range(0, 112, 8):
        batch = make(first, 8)
        own = numbers(batch)
        seen += own
        assert batch.label.tolist() == [number % 5 for number in own] == batch.fake_label.tolist()
        for row, number in enumerate(own):
            assert any(torch.allclose(batch.text[row], texts[key]) for key in (number % 5, f"f{number}"))
            negative = next(key for key, text in texts.items() if torch.allclose(batch.negative_text[row], text))
            assert (int(str(negative).strip("f")) % 5) != number % 5, "a negative is of another class"
    assert Counter(seen) == dict.fromkeys(range(56), 2), "each once a pass"


@pytest.mark.parametrize("workers", [0, 1])
def test_a_batch_of_a_stream_has_the_words_of_its_texts(tmp_path: Path, workers: int) -> None:
    make = batches(write_shards(tmp_path), workers, words=True, latents_per_caption=2, hard_negatives=3)
    plain = batches(str(tmp_path / "train-*.tar"), latents_per_caption=2, hard_negatives=3)
    encoder = NgramEncoder(dim=64)
    texts = [f"kind {kind}" for kind in range(5)] + [f"flower {number}" for number in range(56)]
    embeddings, words = encoder.embed_captions(texts, words=True)
    assert words is not None
    for first in range(0, 40, 8):
        batch, without = make(first, 8), plain(first, 8)
        assert torch.equal(batch.images, without.images) and torch.equal(batch.negative_text, without.negative_text)
        for text, found in (
            (batch.text, batch.words),
            (batch.fake_text, batch.fake_words),
            (batch.negative_text, batch.negative_words),
        ):
            assert found is not None
            rows = torch.cdist(text, embeddings).argmin(1)
            assert all(map(torch.equal, found, words.take(rows)))


def test_an_error_in_a_worker_is_raised_when_its_batch_comes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The batch after the latest is taken ahead, and left where the stream goes on elsewhere."""
    make = batches(write_shards(tmp_path), workers=1)
    every = [make(first, 8).images for first in range(0, 56, 8)]
    good = make.decoder.reader.image

    def image(shard: int, sample: int, size: int) -> np.ndarray:
        if (shard, sample) == bad:
            raise DataError("the image is damaged.")
        return good(shard, sample, size)

    shards, samples = make.decoder.order(8, range(8))
    bad = int(shards[0]), int(samples[0])
    again = batches(str(tmp_path / "train-*.tar"), workers=1)
    monkeypatch.setattr(again.decoder.reader, "image", image)
    assert torch.equal(again(0, 8).images, every[0]), "not before"
    with pytest.raises(DataError, match="the image is damaged"):
        again(8, 8)
    for first in (24, 40, 32, 0):
        assert torch.equal(again(first, 8).images, every[first // 8])


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"latents_per_caption": 2, "interpolated": 0.5},
        {"averaged": 2, "flip_vertical": True},
        {"contrasted": 5, "hard_negatives": 4},
        {"words": True, "hard_negatives": 2, "averaged": 2, "latents_per_caption": 2},
    ],
    ids=str,
)
def test_a_stream_resumed_in_the_middle_gives_the_same_batches(tmp_path: Path, options: dict[str, Any]) -> None:
    pattern = write_shards(tmp_path)
    whole = batches(pattern, **options)
    wanted = [whole(first, 8) for first in range(0, 200, 8)]
    for first in (0, 56, 192):
        found = batches(pattern, workers=first % 3, **options)(first, 8)
        for name, value in vars(wanted[first // 8]).items():
            other = getattr(found, name)
            if isinstance(value, Words):
                assert all(map(torch.equal, value, other)), name
            elif value is not None and name != "others":
                assert torch.equal(value, other), name
            elif value is not None:
                assert torch.equal(value.embedding, other.embedding) and torch.equal(value.label, other.label)


def test_negatives_come_from_the_images_before(tmp_path: Path) -> None:
    make = batches(write_shards(tmp_path, (300, 300, 300)), batch=4, contrasted=400)
    for first in range(0, 4 * 200, 4):
        batch = make(first, 4)
    assert batch.others is not None and len(batch.others.label.unique()) == 5
    assert make._pool is not None and len(make._pool) == POOL_SIZE


def test_workers_fetch_every_sample_into_a_full_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STACKFLOWER_CACHE_GIB", "0.000001")
    write_shards(tmp_path / "shards", (6,) * 12)
    make = batches(f"file://{tmp_path}/shards/train-{{000..011}}.tar", workers=3)
    assert Counter(number for first in range(0, 72, 8) for number in numbers(make(first, 8))) == Counter(
        range(64)
    ) + Counter(range(8))

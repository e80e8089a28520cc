"""Captions that do not belong to an image."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from stackflower.data.prepared import Prepared
from stackflower.data.source import Rows
from stackflower.training.batches.negatives import NegativeSampler
from stackflower.utils.rng import create_rng


@pytest.mark.parametrize("labels", [[0, 0, 1, 1, 1, 2], [5, 9, 5, 9, 5, 5], None])
def test_wrong_pairs_never_share_a_class_and_are_uniform(labels: list[int] | None) -> None:
    count = 6
    draw = NegativeSampler(None if labels is None else torch.tensor(labels), count)
    index = torch.arange(count).repeat(20_000)
    other = draw(index, create_rng(0, 1))
    classes = torch.arange(count) if labels is None else torch.tensor(labels)
    assert (classes[index] != classes[other]).all()
    for picture in range(count):
        allowed = (classes != classes[picture]).nonzero().flatten()
        found = torch.bincount(other[index == picture], minlength=count)[allowed] / 20_000
        assert torch.allclose(found, torch.full_like(found, 1 / len(allowed)), atol=0.02)


def test_wrong_pairs_are_seeded() -> None:
    draw = NegativeSampler(torch.tensor([0, 1, 2, 3]), 4)
    index = torch.arange(4).repeat(10)
    assert torch.equal(draw(index, create_rng(3)), draw(index, create_rng(3)))
    assert not torch.equal(draw(index, create_rng(3)), draw(index, create_rng(4)))


def test_with_one_class_the_wrong_caption_is_another_pictures() -> None:
    draw = NegativeSampler(torch.zeros(5, dtype=torch.int64), 5)
    index = torch.arange(5).repeat(100)
    assert (draw(index, create_rng(0)) != index).all()


def test_without_labels_pictures_with_the_same_captions_are_of_one_class() -> None:
    rows = Rows(
        captions=[["red hair"], ["blue hair"], ["red hair"], ["red hair", "blue eyes"], ["blue eyes", "red hair"]]
    )
    data = Prepared(torch.zeros(5, 4, 4, 3, dtype=torch.uint8), rows, "")
    assert data.classes().tolist() == [0, 1, 0, 2, 2]
    others = NegativeSampler(data.classes(), 5)(torch.zeros(200, dtype=torch.int64), torch.Generator().manual_seed(0))
    assert set(others.tolist()) == {1, 3, 4}
    assert Prepared(data.images, dataclasses.replace(rows, labels=[7] * 5), "").classes().tolist() == [7] * 5

"""Batches of a prepared data set: crops, captions, noise and wrong captions."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import pytest
import torch

from stackflower.data.prepared import Prepared, prepare
from stackflower.data.source import Rows
from stackflower.data.synthetic.source import SyntheticFlowers
from stackflower.stages.base import Words
from stackflower.stages.words import join_words
from stackflower.text.cache import embed
from stackflower.text.encoders.ngram import NgramEncoder
from stackflower.text.words import build_word_lookup
from stackflower.training.batches.assembly import Batches
from stackflower.training.batches.batch import Drawing
from stackflower.training.batches.prepared import PreparedBatches


def batches(**options: object) -> Batches:
    data = prepare(SyntheticFlowers(count=48), "train", 76)
    captions, encoder = data.flatten_captions(), NgramEncoder(dim=32)
    table, words = embed(captions, encoder), build_word_lookup(encoder, captions, torch.device("cpu"))
    usual = {"resolution": 64, "seed": 3, "draw_noise": lambda count, g: torch.randn(count, 5, generator=g)}
    drawing = Drawing(**(usual | options))  # type: ignore[arg-type]
    return PreparedBatches(data, table.__getitem__, drawing, words=words)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"latents_per_caption": 2, "interpolated": 0.5},
        {"interpolated": 0.75, "averaged": 2},
        {"hard_negatives": 3, "averaged": 4, "flip_vertical": True},
        {"contrasted": 5},
        {"words": True, "latents_per_caption": 2, "interpolated": 0.5, "averaged": 2, "hard_negatives": 2},
    ],
    ids=str,
)
def test_shares_of_a_batch_make_the_whole(options: dict[str, Any]) -> None:
    make = batches(**options)
    whole = make(16, 8)
    halves = [make(16, 8, slice(0, 4)), make(16, 8, slice(4, 8))]
    for name, values in vars(whole).items():
        if isinstance(values, Words):
            assert all(map(torch.equal, values, join_words([getattr(half, name) for half in halves]))), name
            assert all(map(torch.equal, values, join_words([getattr(part, name) for part in whole.split(2)]))), name
        elif name != "others":
            assert values is None or torch.equal(values, torch.cat([getattr(half, name) for half in halves])), name
    for part in (*halves, *whole.split(2)):
        assert part.others is whole.others is None or all(map(torch.equal, part.others, whole.others))


def test_a_batch_has_captions_of_any_images_besides_its_own() -> None:
    data, _ = shared_captions()
    flat = data.flatten_captions()
    batch = telling(data, contrasted=200)(0, 60)
    drawn = [flat[number] for number in batch.others.embedding.argmax(1).tolist()]
    assert set(drawn) == set(flat)
    known = dict(zip((flat[number] for number in batch.caption.tolist()), batch.label.tolist(), strict=True))
    assert [known[text] for text in drawn] == batch.others.label.tolist(), "texts that read the same are of one class"
    plain = telling(data)(0, 60)
    assert torch.equal(plain.images, batch.images) and torch.equal(plain.noise, batch.noise) and plain.others is None


def test_a_process_embeds_what_its_share_needs() -> None:
    make, embedded = batches(latents_per_caption=2, hard_negatives=3), []
    lookup = make.captions.embed
    make.captions.embed = lambda captions: embedded.append(captions.numel()) or lookup(captions)
    make(0, 16, slice(4, 8))
    assert sum(embedded) == 4 + 4 * 3


def test_every_picture_comes_once_an_epoch_in_another_order() -> None:
    make = batches()
    first, second = make.get_indices(0, 48), make.get_indices(48, 48)
    assert first.sort().values.tolist() == second.sort().values.tolist() == list(range(48))
    assert first.tolist() != second.tolist()
    assert torch.equal(make.get_indices(40, 20), torch.cat([first[40:], second[:12]]))


def test_crops_are_of_the_picture_and_half_are_mirrored() -> None:
    make = batches()
    batch = make(0, 48)
    assert batch.images.shape == (48, 3, 64, 64) and batch.images.abs().max() <= 1
    assert batch.images.is_contiguous(memory_format=torch.channels_last)
    mirrored = 0
    for image, index in zip(batch.images, make.get_indices(0, 48).tolist(), strict=True):
        original = make.images[index].permute(2, 0, 1).float() / 127.5 - 1
        windows = original.unfold(1, 64, 1).unfold(2, 64, 1).permute(1, 2, 0, 3, 4).flatten(0, 1)
        plain, flipped = ((windows - x).abs().amax((1, 2, 3)).min() < 1e-5 for x in (image, image.flip(2)))
        assert plain or flipped
        mirrored += bool(flipped and not plain)
    assert 10 <= mirrored <= 38
    assert not torch.equal(batches(flip=False)(0, 48).images, batch.images)


def test_averaged_captions_are_different_ones_of_the_picture() -> None:
    make = batches(averaged=4)
    found = make(0, 48).text
    for row, index in zip(found, make.get_indices(0, 48).tolist(), strict=True):
        own = make.captions.embed.__self__[6 * index : 6 * index + 6]
        sums = torch.stack([own[list(c)].mean(0) for c in combinations(range(6), 4)])
        assert (sums - row).abs().amax(1).min() < 1e-5
    assert torch.allclose(batches(averaged=6)(0, 8).text, batches(averaged=9)(0, 8).text, atol=1e-5)


def test_of_several_negative_captions_the_most_similar_is_taken() -> None:
    make = batches(hard_negatives=8)
    batch, plain = make(0, 48), batches()(0, 48)
    own = (batch.negative_text * batch.text).sum(1)
    assert own.mean() > (plain.negative_text * plain.text).sum(1).mean()
    labels = SyntheticFlowers(count=48).rows("train").labels
    for wrong, index in zip(batch.negative_text, make.get_indices(0, 48).tolist(), strict=True):
        (rows,) = (make.captions.embed.__self__ == wrong).all(1).nonzero(as_tuple=True)
        assert labels is not None and any(labels[row // 6] != labels[index] for row in rows.tolist())


def test_several_noises_a_caption_repeat_its_text() -> None:
    batch = batches(latents_per_caption=2)(0, 8)
    assert torch.equal(batch.fake_text[0::2], batch.fake_text[1::2]) and torch.equal(
        batch.fake_text[0::2], batch.text[0::2]
    )


def test_interpolated_texts_lie_halfway_between_two_captions() -> None:
    plain, batch = batches(latents_per_caption=2)(0, 8), batches(latents_per_caption=2, interpolated=0.5)(0, 8)
    assert torch.equal(batch.fake_text[4:], plain.fake_text[4:]) and torch.equal(
        batch.fake_label[4:], plain.fake_label[4:]
    )
    for row in (0, 2):
        expected = (plain.fake_text[row] + plain.fake_text[row - 2]) / 2
        assert torch.allclose(batch.fake_text[row], expected) and torch.equal(
            batch.fake_text[row], batch.fake_text[row + 1]
        )
    assert (batch.fake_label[:4] < 0).all() and torch.equal(batch.images, plain.images)


@pytest.mark.parametrize("options", [{}, {"averaged": 3}, {"hard_negatives": 3}, {"contrasted": 4}], ids=str)
def test_words_are_those_of_the_drawn_captions(options: dict[str, Any]) -> None:
    make = batches(words=True, latents_per_caption=2, interpolated=0.5, **options)
    flat = prepare(SyntheticFlowers(count=48), "train", 76).flatten_captions()
    batch = make(0, 8)
    assert batch.words is not None and batch.fake_words is not None and batch.negative_words is not None
    for words, numbers in ((batch.words, batch.caption), (batch.negative_words, batch.negative_caption)):
        expected = NgramEncoder(dim=32).encode_words([flat[number] for number in numbers.tolist()]).words
        longest = expected.mask.shape[1]
        assert torch.equal(words.mask[:, :longest], expected.mask) and not words.mask[:, longest:].any()
        assert torch.equal(words.vectors[:, :longest], expected.vectors) and not words.vectors[:, longest:].any()
    # of a text halfway between two captions, those of its own row
    assert torch.equal(batch.fake_words.vectors, batch.words.vectors[torch.arange(8) // 2 * 2])
    plain = batches(latents_per_caption=2, interpolated=0.5, **options)(0, 8)
    assert plain.words is plain.fake_words is plain.negative_words is None
    for name, value in vars(plain).items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, getattr(batch, name)), f"{name}: words draw nothing"


def test_labels_go_with_the_pictures_and_with_what_is_drawn() -> None:
    whole = batches(latents_per_caption=2)(0, 8)
    assert torch.equal(whole.fake_label[0::2], whole.label[0::2])
    assert torch.equal(whole.fake_label[1::2], whole.label[0::2])
    parts = whole.split(2)
    assert torch.equal(torch.cat([part.label for part in parts]), whole.label)
    assert torch.equal(batches(latents_per_caption=2)(0, 8, slice(4, 8)).fake_label, whole.fake_label[4:])


def shared_captions() -> tuple[Prepared, list[list[str]]]:
    """Templates and tags are shared by pictures that are not alike: "big" is wrong for none that is big."""
    captions = [["a red flower", "big"], ["a red flower", "small"], ["a blue flower", "big"]] * 20
    return Prepared(torch.zeros(60, 4, 4, 3, dtype=torch.uint8), Rows(captions), ""), captions


def telling(data: Prepared, **options: Any) -> Batches:
    """Batches whose embeddings tell the numbers of the captions."""
    count = len(data.flatten_captions())
    drawing = Drawing(4, 0, lambda count, generator: torch.zeros(count, 1), **options)
    return PreparedBatches(data, lambda numbers: torch.nn.functional.one_hot(numbers, count).float(), drawing)


def test_without_labels_texts_that_read_the_same_are_of_one_class() -> None:
    data, _ = shared_captions()
    flat = data.flatten_captions()
    make = telling(data, latents_per_caption=2)
    batch = make(0, 60)
    texts = [flat[number] for number in batch.caption.tolist()]
    for row, label in enumerate(batch.label.tolist()):
        assert [texts[other] == texts[row] for other in range(60)] == (batch.label == label).tolist()
    drawn = [flat[number] for number in batch.fake_text.argmax(1).tolist()]
    assert [batch.label[texts.index(text)].item() for text in drawn] == batch.fake_label.tolist()


@pytest.mark.parametrize("averaged", [2, 4])
def test_without_labels_averaged_wrong_captions_are_not_the_pictures_own(averaged: int) -> None:
    data, captions = shared_captions()
    data.rows.captions[:] = [
        [*texts, "in a garden" if row % 6 < 3 else "in a vase"] for row, texts in enumerate(captions)
    ]
    flat = data.flatten_captions()
    make = telling(data, averaged=averaged)

    def shared() -> int:
        count = 0
        for picture, wrong in zip(make.get_indices(0, 60).tolist(), make(0, 60).negative_text, strict=True):
            theirs = {flat[number] for number in wrong.nonzero().flatten().tolist()}
            assert len(theirs) == min(averaged, 3)
            count += len(theirs & set(data.captions[picture]))
        return count

    looked = shared()
    make.negatives.shared = None  # as if it did not look
    assert looked < shared() / 2


def test_without_labels_a_wrong_caption_is_none_of_the_pictures_own() -> None:
    data, captions = shared_captions()
    flat = data.flatten_captions()
    batches = telling(data, hard_negatives=2)
    seen = set()
    for first in range(0, 600, 60):
        batch = batches(first, 60)
        assert torch.equal(batch.negative_text.argmax(1), batch.negative_caption)
        for picture, wrong in zip(
            batches.get_indices(first, 60).tolist(), batch.negative_caption.tolist(), strict=True
        ):
            assert flat[wrong] not in captions[picture]
            seen.add((picture % 3, flat[wrong]))
    assert seen == {
        (0, "small"),
        (0, "a blue flower"),
        (1, "big"),
        (1, "a blue flower"),
        (2, "small"),
        (2, "a red flower"),
    }

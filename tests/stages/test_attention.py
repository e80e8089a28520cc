"""Attention to words: closed forms, padding, and stages that use words."""

from __future__ import annotations

import pytest
import torch
from tiny_parts import C, N, T, make, make_words
from torch import Tensor

from stackflower import registry
from stackflower.errors import ComponentError
from stackflower.stages.base import WORDS, Generator, Refiner, Stage, Words
from stackflower.stages.generators.attention import AttentionBranch, AttentionGenerator
from stackflower.stages.words import attend_to_words


def generator(**options: object) -> AttentionGenerator:
    part = make("generator", "attention", **options)
    assert isinstance(part, AttentionGenerator)
    return part.eval()


def test_attention_is_the_softmax_over_words_that_a_loop_computes() -> None:
    torch.manual_seed(0)
    queries, keys = torch.randn(2, 5, 3, dtype=torch.float64), torch.randn(2, 4, 3, dtype=torch.float64)
    mask = torch.tensor([[True, True, False, True], [True, False, False, False]])
    weights = attend_to_words(queries, keys, mask)
    for n in range(2):
        for m in range(5):
            exponentials = [
                torch.exp(sum(queries[n, m, c] * keys[n, i, c] for c in range(3))) if mask[n, i] else torch.tensor(0.0)
                for i in range(4)
            ]
            expected = torch.stack([value.double() for value in exponentials]) / sum(exponentials)
            assert torch.allclose(weights[n, m], expected, rtol=1e-12)
    assert not weights.transpose(1, 2)[~mask].any(), "padding has a weight of exactly zero"


def test_attention_is_computed_in_float32_under_autocast() -> None:
    queries, keys = torch.randn(1, 4, 64), torch.randn(1, 3, 64)
    mask = torch.ones(1, 3, dtype=torch.bool)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(attend_to_words(queries, keys, mask), attend_to_words(queries, keys, mask).float())
    assert torch.equal(attend_to_words(queries, keys, mask), (queries @ keys.transpose(1, 2)).softmax(2))


def test_attention_to_one_word_is_its_projection_everywhere() -> None:
    torch.manual_seed(0)
    branch = AttentionBranch(4, 7, 1, "none").double()
    features, words = torch.randn(2, 4, 8, 8).double(), make_words(2, 1, 7)
    words = Words(words.vectors.double(), words.mask)
    found, maps = branch(features, words)
    everywhere = branch.project(words.vectors)[:, 0, :, None, None].expand(-1, -1, 8, 8)
    assert torch.allclose(found, branch.up(branch.residual(torch.cat([features, everywhere], 1))), rtol=1e-12)
    assert torch.equal(maps, torch.ones(2, 1, 8, 8).double())


def test_padding_to_another_length_changes_nothing() -> None:
    torch.manual_seed(0)
    part, words = generator(resolution=64, scales=3), make_words(N, 5)
    longer = Words(
        torch.cat([words.vectors, torch.full((N, 3, words.vectors.shape[2]), 9.0)], 1),
        torch.nn.functional.pad(words.mask, (0, 3)),
    )
    condition, noise = torch.randn(N, C), torch.randn(N, part.noise_dim)
    images, maps = part.attend(condition, noise, words)
    others, other_maps = part.attend(condition, noise, longer)
    for image, other in zip(images, others, strict=True):
        assert torch.allclose(image, other, atol=1e-6)
    for weights, wider in zip(maps, other_maps, strict=True):
        assert torch.allclose(weights, wider[:, :5], atol=1e-6) and not wider[:, 5:].any()


def test_maps_have_one_weight_per_word_and_pixel() -> None:
    part, words = generator(resolution=64, scales=3), make_words(N, 5)
    images, maps = part.attend(torch.randn(N, C), torch.randn(N, part.noise_dim), words)
    assert [image.shape[-1] for image in images] == [16, 32, 64]
    assert [weights.shape for weights in maps] == [(N, 5, 16, 16), (N, 5, 32, 32)]
    for weights in maps:
        assert torch.allclose(weights.sum(1), torch.ones(()), atol=1e-5)
        assert not weights.transpose(0, 1)[~words.mask.T].any()


def test_the_smallest_image_does_not_depend_on_the_words_and_the_others_do() -> None:
    part, words = generator(), make_words(N, 5)
    condition, noise = torch.randn(N, C), torch.randn(N, part.noise_dim)
    small, large = part(condition, noise, words)
    other_small, other_large = part(condition, noise, words.take(torch.arange(N).roll(1)))
    assert torch.equal(small, other_small) and not torch.allclose(large, other_large, atol=1e-4)


@pytest.mark.parametrize(("resolution", "scales"), [(16, 1), (32, 3), (48, 2), (8, 2)])
def test_a_resolution_that_the_scales_do_not_divide_is_refused(resolution: int, scales: int) -> None:
    with pytest.raises(ComponentError, match="does not fit"):
        registry.create("generator", "attention", condition_dim=C, word_dim=3, resolution=resolution, scales=scales)


class WordRefiner(Refiner):
    requires = (*Refiner.requires, WORDS)
    uses_words = True
    resolutions = (64,)

    def generate(self, condition: Tensor, noise: Tensor, image: Tensor | None = None, words: Words | None = None):  # type: ignore[no-untyped-def]
        assert image is not None and words is not None
        shift = (words.vectors * words.mask[..., None]).sum((1, 2)).tanh()
        return (torch.nn.functional.interpolate(image, 64) * shift[:, None, None, None],)


def test_words_reach_every_stage_that_uses_them() -> None:
    torch.manual_seed(0)
    lower = Stage(make("conditioning", "projection"), generator())  # type: ignore[arg-type]
    plain = make("generator", "stage2", resolution=64)
    words, embedding = make_words(2, 3), torch.randn(2, T)
    for refiner in (WordRefiner(), plain):
        stage = Stage(make("conditioning", "projection"), refiner, lower)  # type: ignore[arg-type]
        assert stage.uses_words
        noise = torch.randn(2, stage.noise_dim)
        swapped = words.take(torch.tensor([1, 0]))
        found, other = (stage(embedding, noise, each).images[0] for each in (words, swapped))
        assert not torch.allclose(found, other, atol=1e-5)
        with pytest.raises(ValueError, match="pass `words`"):
            stage(embedding, noise)


def test_words_do_not_reach_a_generator_that_does_not_use_them() -> None:
    stage = Stage(make("conditioning", "projection"), make("generator", "stage1"))  # type: ignore[arg-type]
    assert not stage.uses_words and not Generator.uses_words
    noise, embedding = torch.randn(2, stage.noise_dim), torch.randn(2, T)
    stage.eval()
    assert torch.equal(stage(embedding, noise).images[0], stage(embedding, noise, make_words(2, 3)).images[0])

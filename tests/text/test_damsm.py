"""The DAMSM: its closed form, masks, image encoders and their files."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from conftest import tiny_features
from tiny_parts import make_words

from stackflower.errors import ConfigError, RunError
from stackflower.stages.base import Words
from stackflower.text import regions as module
from stackflower.text.damsm import DamsmOptions, compute_damsm_losses, contrast_pairs, match_words
from stackflower.text.regions import (
    IMAGE_FILE,
    IMAGE_WEIGHTS_FILE,
    ConvolutionalRegions,
    FeatureRegions,
    Regions,
    build_image_encoder,
    load_image_encoder,
    save_image_encoder,
)

OPTIONS = DamsmOptions(gamma1=3.0, gamma2=2.0, gamma3=7.0)


def double_words(count: int = 3, longest: int = 4, dim: int = 5) -> Words:
    words = make_words(count, longest, dim)
    return Words(words.vectors.double(), words.mask)


def cosine(a: list[float], b: list[float]) -> float:
    product, lengths = sum(x * y for x, y in zip(a, b, strict=True)), [math.sqrt(sum(x * x for x in v)) for v in (a, b)]
    return product / (lengths[0] * lengths[1])


def score_by_loop(words: list[list[float]], parts: list[list[float]], options: DamsmOptions) -> float:
    """Equations 7 to 10 for one image and one caption, element by element."""
    s = [[sum(e * v for e, v in zip(word, part, strict=True)) for part in parts] for word in words]
    total = 0.0
    for i, word in enumerate(words):
        shares = [math.exp(s[i][j]) / sum(math.exp(s[k][j]) for k in range(len(words))) for j in range(len(parts))]
        exponentials = [math.exp(options.gamma1 * share) for share in shares]
        weights = [value / sum(exponentials) for value in exponentials]
        context = [sum(weights[j] * parts[j][d] for j in range(len(parts))) for d in range(len(word))]
        total += math.exp(options.gamma2 * cosine(context, word))
    return math.log(total) / (options.gamma2 if options.root else 1)


@pytest.mark.parametrize("root", [True, False])
def test_the_scores_equal_a_loop_over_the_equations(root: bool) -> None:
    torch.manual_seed(0)
    options = DamsmOptions(gamma1=3.0, gamma2=2.0, root=root)
    words, parts = double_words(), torch.randn(3, 6, 5).double()
    scores = match_words(words, parts, options)
    for image in range(3):
        for caption in range(3):
            own = words.vectors[caption][words.mask[caption]].tolist()
            assert scores[image, caption].item() == pytest.approx(
                score_by_loop(own, parts[image].tolist(), options), rel=1e-10
            )


def test_the_loss_equals_a_loop_over_the_equations() -> None:
    torch.manual_seed(1)
    words, sentence = double_words(), torch.randn(3, 5).double()
    regions = Regions(torch.randn(3, 6, 5).double(), torch.randn(3, 5).double())
    losses = compute_damsm_losses(regions, words, sentence, torch.tensor([0, 1, 0]), OPTIONS)
    scores = {
        "words": match_words(words, regions.parts, OPTIONS).tolist(),
        "sentence": [[cosine(v, e) for e in sentence.tolist()] for v in regions.whole.tolist()],
    }
    for name, table in scores.items():
        expected = 0.0
        for n in range(3):
            others = [m for m in range(3) if m == n or (m, n) not in ((0, 2), (2, 0))]  # 0 and 2 are of one class
            for line in ([table[n][m] for m in others], [table[m][n] for m in others]):
                expected += math.log(sum(math.exp(7 * value) for value in line)) - 7 * table[n][n]
        assert losses[name].item() == pytest.approx(expected / 3, rel=1e-10)


def test_padding_changes_nothing_and_gets_no_gradient() -> None:
    torch.manual_seed(0)
    words, parts = double_words(), torch.randn(3, 6, 5).double()
    garbage = torch.cat([words.vectors, torch.full((3, 2, 5), 50.0).double()], 1).requires_grad_()
    longer = Words(garbage, torch.nn.functional.pad(words.mask, (0, 2)))
    scores = match_words(longer, parts)
    assert torch.allclose(scores, match_words(words, parts), rtol=1e-12)
    scores.sum().backward()
    assert garbage.grad is not None and not garbage.grad[~longer.mask].any() and garbage.grad[longer.mask].all()


def test_pairs_of_one_class_are_left_out() -> None:
    torch.manual_seed(0)
    scores = torch.randn(4, 4).double()
    label = torch.tensor([0, 0, 1, 2])
    changed = scores.clone()
    changed[0, 1] = changed[1, 0] = 100.0
    assert torch.equal(contrast_pairs(scores, label), contrast_pairs(changed, label))
    assert contrast_pairs(scores, torch.zeros(4)) == 0, "nothing is left to tell apart"
    assert contrast_pairs(scores, torch.arange(4)) != contrast_pairs(changed, torch.arange(4))


def test_matching_pairs_have_a_lower_loss() -> None:
    torch.manual_seed(0)
    words = make_words(4, 3, 8)
    parts = words.vectors * words.mask[..., None] + 0.01 * torch.randn(4, 3, 8)
    regions = Regions(parts, parts.sum(1))
    label, sentence = torch.arange(4), parts.sum(1)
    good = compute_damsm_losses(regions, words, sentence, label)
    bad = compute_damsm_losses(Regions(parts.roll(1, 0), parts.sum(1).roll(1, 0)), words, sentence, label)
    assert all(good[name] < bad[name] for name in good)


@pytest.fixture
def described(monkeypatch: pytest.MonkeyPatch) -> None:
    features = tiny_features()
    monkeypatch.setattr(module, "load_features", lambda part: features)


@pytest.mark.parametrize("kind", ["features", "convolutional"])
def test_an_image_encoder_survives_a_file(tmp_path: Path, described: None, kind: str) -> None:
    torch.manual_seed(0)
    encoder = FeatureRegions(7, {"name": "tiny"}, 32, 8) if kind == "features" else ConvolutionalRegions(7, 32, 4)
    images = torch.rand(2, 3, 20, 20)
    parts, whole = encoder(images)
    assert parts.shape == (2, 16, 7) and whole.shape == (2, 7)
    save_image_encoder(encoder, tmp_path, 7, {"gamma1": 3.0})
    state = torch.random.get_rng_state()
    again, damsm = load_image_encoder(tmp_path)
    assert torch.equal(torch.random.get_rng_state(), state), "loading draws nothing"
    assert damsm == {"gamma1": 3.0} and again is load_image_encoder(tmp_path)[0], "shared"
    assert not any(parameter.requires_grad for parameter in again.parameters())
    with torch.no_grad():
        assert all(map(torch.equal, again(images), (parts, whole)))
    with torch.device("meta"):
        assert next(build_image_encoder(7, encoder.describe() | {"kind": kind}).parameters()).is_meta
        assert not next(load_image_encoder(tmp_path)[0].parameters()).is_meta


def test_every_weight_of_an_image_encoder_learns(described: None) -> None:
    for encoder in (FeatureRegions(7, {"name": "tiny"}, 32, 8), ConvolutionalRegions(7, 32, 4)):
        images = torch.rand(2, 3, 32, 32, requires_grad=True)
        parts, whole = encoder(images)
        (parts.square().sum() + whole.square().sum()).backward()
        assert images.grad is not None and images.grad.any(), "the generator learns through it"
        assert all(p.grad is not None and p.grad.any() for p in encoder.parameters())


def test_a_damaged_or_missing_image_encoder_is_named(tmp_path: Path, described: None) -> None:
    with pytest.raises(ConfigError, match="has no image encoder"):
        load_image_encoder(tmp_path)
    encoder = FeatureRegions(7, {"name": "tiny"}, 32, 8)
    save_image_encoder(encoder, tmp_path, 7, {})
    text = (tmp_path / IMAGE_FILE).read_text()
    (tmp_path / IMAGE_FILE).write_text(text.replace(encoder.features.checksum, "0" * 16))
    with pytest.raises(RunError, match="other weights of tiny"):
        load_image_encoder(tmp_path)
    (tmp_path / IMAGE_WEIGHTS_FILE).write_bytes(b"nothing")
    with pytest.raises(RunError, match="missing or damaged"):
        load_image_encoder(tmp_path)

"""Every registered conditioning, generator and discriminator: shapes, gradients of all parameters, and files."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_parts import C, N, R, T, every_parameter_learns, give_words, make, make_stage, survives_a_file, text

from stackflower import registry
from stackflower.stages.base import Refiner, Stage, Text


@pytest.mark.parametrize("name", registry.list_parts("conditioning"))
def test_every_conditioning_learns_and_survives_a_file(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    part = make("conditioning", name)
    found = part(torch.randn(N, T), torch.randn(N, part.noise_dim))  # type: ignore[operator]
    assert found.sample.shape == found.mean.shape == (N, part.dim)
    assert set(found.terms) == set(part.weights)
    every_parameter_learns(part, found.sample.square().sum() + sum(found.terms.values()))
    survives_a_file(part, make("conditioning", name), tmp_path / "part.safetensors")


@pytest.mark.parametrize("name", registry.list_parts("generator"))
@pytest.mark.parametrize("resolution", [16, 64])
def test_every_generator_learns_and_survives_a_file(name: str, resolution: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    scales = {"scales": 3} if name in ("tree", "attention") and resolution == 64 else {}
    resolution = max(resolution, 32) if name == "attention" else resolution  # at least two, the smallest of 16 px
    part = make("generator", name, resolution=resolution, **scales)
    below = [torch.rand(N, 3, resolution // 2, resolution // 2)] if isinstance(part, Refiner) else []
    images = part(torch.randn(N, C), torch.randn(N, part.noise_dim), *below, *give_words(part))  # type: ignore[operator]
    assert part.resolutions == ((16, 32, 64) if scales else (16, 32) if name == "attention" else (resolution,))
    assert [image.shape for image in images] == [(N, 3, r, r) for r in part.resolutions]
    assert name in ("began", "r3gan") or all(image.abs().max() <= 1 for image in images)
    terms = part.terms(images)  # type: ignore[operator]
    assert set(terms) == set(part.weights)
    every_parameter_learns(part, sum((image * torch.randn_like(image)).sum() for image in images) + sum(terms.values()))
    survives_a_file(part, make("generator", name, resolution=resolution, **scales), tmp_path / "part.safetensors")


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("stage1", {"style": True}),
        ("stage1", {"mapping_layers": 2}),
        ("stage1", {"style": True, "mapping_layers": 1, "dropout": 0.5}),
        *((name, {"norm": norm}) for name in ("stage1", "dcgan", "residual") for norm in ("virtual", "layer", "none")),
    ],
)
def test_generators_learn_with_their_options(name: str, options: dict[str, object]) -> None:
    torch.manual_seed(0)
    part = make("generator", name, channels=16, **options)
    (images,) = part(torch.randn(N, C), torch.randn(N, part.noise_dim))  # type: ignore[operator]
    every_parameter_learns(part, (images * torch.randn_like(images)).sum())


@pytest.mark.parametrize("name", registry.list_parts("generator"))
def test_a_picture_depends_on_text_and_noise_alone(name: str) -> None:
    torch.manual_seed(0)
    stage = make_stage(generator=name).eval()
    embedding, noise = torch.randn(2, T), torch.randn(2, stage.noise_dim)
    with torch.no_grad():
        words = give_words(stage, 2)
        first, again = stage(embedding, noise, *words).images[0], stage(embedding, noise, *words).images[0]
        other = stage(embedding, noise.flip(0), *words).images[0]
        elsewhere = stage(embedding.flip(0), noise, *words).images[0]
    assert torch.equal(first, again)
    assert not torch.allclose(first, other) and not torch.allclose(first, elsewhere)


@pytest.mark.parametrize("name", ["stage1", "dcgan", "residual"])
def test_with_virtual_batch_norm_no_picture_depends_on_its_neighbours(name: str) -> None:
    torch.manual_seed(0)
    part = make("generator", name, norm="virtual").train()
    condition, noise = torch.randn(N, C), torch.randn(N, 5)
    assert part.reference_batch is not None
    part.reference_batch.set(condition, noise)
    (together,), (alone,) = part(condition, noise), part(condition[2:3], noise[2:3])
    assert torch.allclose(together[2], alone[0], atol=1e-5)
    part.reference_batch.set(condition.flip(0)[:3], noise[:3])
    assert not torch.allclose(part(condition, noise)[0], together, atol=1e-3), "the fixed batch matters"


def test_a_stage_over_another_draws_from_what_that_one_drew() -> None:
    torch.manual_seed(0)
    stage = make_stage(generator="stage2").train()
    assert stage.previous is not None and not stage.previous.training
    assert stage.all_resolutions == (R, 2 * R) and stage.resolutions == (2 * R,)
    noise = stage.draw_noise(N, torch.Generator().manual_seed(0))
    embedding = torch.randn(N, T)
    drawn = stage(embedding, noise)
    below = stage.previous(embedding, noise[:, : stage.previous.noise_dim])
    assert torch.equal(drawn.previous[0], below.images[0]) and drawn.images[0].shape[-1] == 2 * R
    drawn.images[0].sum().backward()
    assert all(parameter.grad is None for parameter in stage.previous.parameters()), "the stage below is not trained"
    other = noise.clone()
    other[:, : stage.previous.noise_dim] = 0
    assert not torch.equal(stage(embedding, other).images[0], drawn.images[0])


def test_a_third_stage_goes_over_the_second() -> None:
    second = make_stage(generator="stage2")
    part = registry.create(
        "generator", "stage2", condition_dim=C, previous_resolution=2 * R, resolution=8 * R, channels=4
    )
    third = Stage(make("conditioning", "augmentation"), part, second)  # type: ignore[arg-type]
    drawn = third(torch.randn(2, T), third.draw_noise(2, torch.Generator().manual_seed(0)))
    assert (
        [image.shape[-1] for image in (*drawn.previous, *drawn.images)] == list(third.all_resolutions) == [16, 32, 128]
    )


def test_uniform_noise_is_for_the_generator_alone() -> None:
    stage = Stage(make("conditioning", "augmentation"), make("generator", "stage1", noise="uniform"))  # type: ignore[arg-type]
    noise = stage.draw_noise(2000, torch.Generator().manual_seed(0))
    mine, theirs = noise.split([C, 5], dim=1)
    assert mine.abs().max() > 2 and theirs.abs().max() <= 1
    assert mine.std() == pytest.approx(1, abs=0.05) and theirs.std() == pytest.approx(3**-0.5, abs=0.02)


@pytest.mark.parametrize("name", registry.list_parts("discriminator"))
def test_every_discriminator_learns_and_survives_a_file(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    part = make("discriminator", name)
    seen = []
    part.trunk, trunk = (lambda images: seen.append(1) or trunk(images)), part.trunk  # type: ignore[func-returns-value]
    verdicts = part(torch.randn(N, 3, R, R).clamp(-1, 1), [text(), text()])
    assert len(seen) == 1, "the trunk is run once, however many texts"
    assert [verdict.score.shape for verdict in verdicts] == [(N,), (N,)]
    assert not torch.equal(verdicts[0].score, verdicts[1].score)
    scores = [score for one in verdicts for score in (one.score, one.similarity) if score is not None]
    every_parameter_learns(part, sum((score * torch.randn_like(score)).sum() for score in scores))
    survives_a_file(part, make("discriminator", name), tmp_path / "part.safetensors")


@pytest.mark.parametrize(
    "options",
    [
        {"text": "embedding"},
        {"minibatch_deviation": True},
        {"unconditional": True},
        {"contrastive": True},
        {"norm": "none"},
        {"norm": "layer"},
        {"norm": "instance"},
    ],
)
def test_the_matching_discriminator_learns_with_its_options(options: dict[str, object]) -> None:
    part = make("discriminator", "matching", **options)
    (verdict,) = part(torch.randn(N, 3, R, R), [text()])
    assert (verdict.real is not None) == options.get("unconditional", False)
    assert (verdict.similarity is not None) == options.get("contrastive", False)
    scores = [score for score in verdict if score is not None]
    every_parameter_learns(part, sum((score * torch.randn_like(score)).sum() for score in scores))


def test_the_matching_discriminator_joins_text_by_one_convolution() -> None:
    """Its two halves are the 3×3 convolution over features and repeated text that the paper describes."""
    part, images, words = make("discriminator", "matching").double(), torch.randn(N, 3, R, R).double(), text()
    words = Text(words.embedding.double(), words.condition.double())
    features = part.trunk(images)
    repeated = words.condition[:, :, None, None].expand(-1, -1, 4, 4)
    expected = part.head(part.join(torch.cat([features, repeated], 1))).flatten()
    (verdict,) = part(images, [words])
    assert torch.allclose(verdict.match.double(), expected, atol=1e-5)
    assert torch.allclose(part.judge(features, words).match, verdict.match, atol=1e-5)

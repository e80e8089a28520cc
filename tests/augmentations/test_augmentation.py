"""Augmentations against their closed forms, and what the discriminator sees through them."""

from __future__ import annotations

import pytest
import torch
from accelerate.utils.operations import convert_to_fp32
from torch.autograd import gradcheck, gradgradcheck

from stackflower import registry
from stackflower.adversary import Adversary, Perceived
from stackflower.augmentations.ada import AdaptiveAugmentation
from stackflower.augmentations.base import Augmentation
from stackflower.augmentations.diffaugment import DiffAugment
from stackflower.objectives.base import Pairs
from stackflower.stages.base import Text

N, R = 4, 8


def images(seed: int = 0) -> torch.Tensor:
    return torch.rand(N, 3, R, R, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 2 - 1


def draws(part: Augmentation, seed: int = 0) -> torch.Tensor:
    return torch.rand(N, part.dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("name", registry.list_parts("augmentation"))
def test_gradients_equal_finite_differences_twice(name: str) -> None:
    options = {"strength": 0.7} if name == "ada" else {}
    part = registry.create("augmentation", name, **options)
    x = images()[:2, :, :4, :4].contiguous().requires_grad_()
    drawn = draws(part)[:2]
    assert part(x, drawn).shape == x.shape
    if name != "none":
        assert not torch.equal(part(x, drawn), x), "it does something"
    assert gradcheck(lambda value: part(value, drawn), x)
    assert gradgradcheck(lambda value: part(value, drawn).square(), x)


def test_translation_and_cutout_by_hand() -> None:
    part = DiffAugment(policy=("translation", "cutout"), translation=0.25, cutout=0.5)
    x, drawn = images(), torch.zeros(N, 7, dtype=torch.float64)
    drawn[:, 3], drawn[:, 4] = 0.999, 0.5  # two rows further, no columns
    drawn[:, 5:7] = 0.5  # the square's centre in the middle
    expected = torch.zeros_like(x)
    expected[:, :, : R - 2] = x[:, :, 2:]
    expected[:, :, 2:6, 2:6] = 0
    assert torch.equal(part(x, drawn), expected)


def test_crops_are_parts_at_their_own_size() -> None:
    part = DiffAugment(policy=("translation",), translation=0.0, crop=4)
    x, drawn = images().requires_grad_(), draws(part)
    drawn[0, 7:9] = torch.tensor([0.0, 0.999])
    seen = part(x, drawn)
    assert seen.shape == (N, 3, 4, 4) and torch.equal(seen[0], x[0, :, :4, 4:])
    for row in range(N):
        assert any(
            torch.equal(seen[row], x[row, :, top : top + 4, left : left + 4]) for top in range(5) for left in range(5)
        )
    assert torch.equal(part(x[:, :, :4, :4], drawn), x[:, :, :4, :4]), "images that are no larger are seen whole"
    assert gradcheck(lambda value: part(value, drawn), x)


def test_colour_by_hand() -> None:
    part = DiffAugment(policy=("colour",))
    x, drawn = images(), draws(part)
    result = part(x, drawn)
    for row in range(N):
        brightness, saturation, contrast = drawn[row, :3].tolist()
        pixel = x[row] + brightness - 0.5
        grey = pixel.mean(0)
        pixel = (pixel - grey) * 2 * saturation + grey
        assert torch.allclose(result[row], (pixel - pixel.mean()) * (contrast + 0.5) + pixel.mean(), atol=1e-6)


def test_at_strength_zero_ada_changes_nothing() -> None:
    part, x = AdaptiveAugmentation(), images().float()
    assert torch.equal(part(x, draws(part).float()), x)


def test_blitting_moves_pixels_and_invents_none() -> None:
    part, x = AdaptiveAugmentation(transforms=("blit",), strength=1.0), images()
    result = part(x, draws(part, 3))
    for row in range(N):
        original = {tuple(pixel) for pixel in x[row].flatten(1).T.tolist()}
        assert {tuple(pixel) for pixel in result[row].flatten(1).T.tolist()} <= original


def test_hue_and_saturation_leave_grey_alone() -> None:
    part = AdaptiveAugmentation(transforms=("colour",), strength=1.0)
    drawn = torch.ones(N, part.dim, dtype=torch.float64) - 1e-9  # beyond every chance …
    drawn[:, [24, 26]] = 0.0  # … but of hue and saturation
    drawn[:, [25, 27]] = draws(part)[:, :2]
    part.strength.fill_(0.5)
    grey = images()[:, :1].expand(-1, 3, -1, -1)
    assert torch.allclose(part(grey, drawn), grey, atol=1e-6)
    coloured = part(images(), drawn)
    assert torch.allclose(coloured.mean(1), images().mean(1), atol=1e-6) and not torch.allclose(coloured, images())


def test_adas_strength_follows_its_rule() -> None:
    part = AdaptiveAugmentation(target=0.6, ramp=1000)
    told = torch.ones(N)
    strengths = []
    for step in range(12):
        score = told if step < 8 else -told
        part.observe(score, torch.zeros(N), relativistic=False)
        measured = part.measures()
        assert measured["real_sign"] == (1 if step < 8 else -1)
        strengths.append(part.after_step(measured, 10)["augmentation"].item())
    # every four steps by their 40 images of 1000: up, up, down
    assert strengths == pytest.approx([0.0] * 3 + [0.04] * 4 + [0.08] * 4 + [0.04])
    for _ in range(40):
        part.observe(-told, torch.zeros(N), relativistic=False)
        part.after_step(part.measures(), 10)
    assert part.strength == 0, "never below 0"


def test_ada_of_a_relativistic_objective_follows_differences() -> None:
    part = AdaptiveAugmentation()
    part.observe(-torch.ones(N), torch.tensor([-2.0, -2.0, -2.0, 0.0]), relativistic=True)
    assert part.measures()["real_sign"] == 0.5
    assert part.measures() == {} and not AdaptiveAugmentation(target=0.0).adaptive


def adversary(features_seen: list[int], **parts: object) -> Adversary:
    from conftest import tiny_features

    features = tiny_features()
    original = type(features).__call__

    class Counted(type(features)):  # type: ignore[misc]
        def __call__(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
            features_seen.append(len(images))
            return original(self, images)

    features.__class__ = Counted
    discriminator = registry.create(
        "discriminator",
        "projected",
        features=features,
        text_dim=5,
        resolution=16,
        size=64,
        levels=3,
        mixing=8,
        channels=8,
    )
    features_seen.clear()  # the network was tried once, for the sizes of its maps
    return Adversary(discriminator, registry.create("objective", "hinge"), {}, **parts)  # type: ignore[arg-type]


def test_the_pretrained_network_sees_a_generated_image_once_for_both_steps() -> None:
    seen: list[int] = []
    side = adversary(seen, augmentation=DiffAugment())
    text = Text(torch.randn(N, 5), torch.randn(N, 2))
    fake = torch.rand(N, 3, 16, 16, requires_grad=True)
    pairs = Pairs(torch.rand(N, 3, 16, 16), fake, text, text, text)
    drawn = torch.rand(N, 7)
    terms, perceived = side(pairs, torch.zeros(N, 1), 0, drawn)
    sum(terms.values()).backward()
    assert fake.grad is None and len(seen) == 2, "real and generated images"
    assert perceived.fake is not None and perceived.real is None, "the generator's step looks at no real images"
    terms = side.generator_terms(pairs._replace(negative_text=None), torch.zeros(N, 1), 0, drawn, perceived)
    sum(terms.values()).backward()  # type: ignore[union-attr]
    assert len(seen) == 2 and fake.grad is not None
    # the same gradient as of a pass of its own
    again = fake.detach().clone().requires_grad_()
    terms = side.generator_terms(pairs._replace(negative_text=None, fake=again), torch.zeros(N, 1), 0, drawn)
    sum(terms.values()).backward()  # type: ignore[union-attr]
    assert len(seen) == 3 and torch.allclose(fake.grad, again.grad, atol=1e-5)


@pytest.mark.parametrize("name", registry.list_parts("augmentation"))
def test_under_autocast_it_is_computed_in_float32(name: str) -> None:
    """In bfloat16 the number of a pixel beyond 256 is rounded, and so is a position."""
    part = registry.create("augmentation", name, **({"strength": 1.0} if name == "ada" else {}))
    side = Adversary(
        registry.create("discriminator", "matching", text_dim=5, condition_dim=2, resolution=64, channels=4),
        registry.create("objective", "hinge"),
        {},
        part,
    )
    x, drawn = torch.rand(N, 3, 64, 64) * 2 - 1, draws(part).float()
    expected = part(x, drawn)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.allclose(side.perceive(x, drawn), expected, atol=1e-6)


def test_a_relativistic_step_hands_on_the_real_images_too() -> None:
    seen: list[int] = []
    side = adversary(seen)
    side.objective = registry.create("objective", "relativistic")
    side = Adversary(side.discriminator, side.objective, {})
    text = Text(torch.randn(N, 5), torch.randn(N, 2))
    fake = torch.rand(N, 3, 16, 16, requires_grad=True)
    pairs = Pairs(torch.rand(N, 3, 16, 16), fake, text, None, text)
    _, perceived = side(pairs, torch.zeros(N, 1), 0)
    side.generator_terms(pairs, torch.zeros(N, 1), 0, None, perceived)
    assert len(seen) == 2 and perceived.real is not None
    side.generator_terms(pairs, torch.zeros(N, 1), 0)
    assert len(seen) == 4, "without it, both are seen again"


def test_images_without_a_gradient_are_not_handed_on() -> None:
    """They were generated for a step of the discriminator alone, and the generator's step generates others."""
    side = adversary([])
    text = Text(torch.randn(N, 5), torch.randn(N, 2))
    pairs = Pairs(torch.rand(N, 3, 16, 16), torch.rand(N, 3, 16, 16), text, text, text)
    assert side(pairs, torch.zeros(N, 1), 0)[1] == Perceived()


def test_accelerate_leaves_what_was_perceived_as_it_is() -> None:
    """It converts the tensors that a module returns to float32; maps of a pretrained network stay bfloat16."""
    perceived = Perceived(fake=(torch.zeros(1, dtype=torch.bfloat16),))
    terms, kept = convert_to_fp32(({"real": torch.zeros((), dtype=torch.bfloat16)}, perceived))
    assert kept is perceived and terms["real"].dtype == torch.float32


def test_ada_counts_every_real_image_but_where_images_are_paired() -> None:
    seen: list[int] = []
    part = AdaptiveAugmentation()
    side = adversary(seen, augmentation=part)
    told: list[torch.Tensor] = []
    part.observe = lambda real, fake, relativistic: told.append(real)  # type: ignore[method-assign]
    text = Text(torch.randn(N, 5), torch.randn(N, 2))
    pairs = Pairs(torch.rand(N, 3, 16, 16), torch.rand(N, 3, 16, 16), text, None, text, latents=2)
    side(pairs, torch.zeros(N, 1), 0, torch.rand(N, part.dim))
    assert len(told[0].unique()) == N


def test_a_weight_that_the_objective_has_no_use_for_gets_a_gradient_of_zero() -> None:
    """DistributedDataParallel waits for every weight's."""
    side = adversary([])
    type(side.objective).offers, before = (), type(side.objective).offers
    try:
        text = Text(torch.randn(N, 5), torch.randn(N, 2))
        pairs = Pairs(torch.rand(N, 3, 16, 16), torch.rand(N, 3, 16, 16), text, None, text)
        sum(term for name, term in side(pairs, torch.zeros(N, 1), 0)[0].items() if name != "contrast").backward()  # type: ignore[union-attr]
    finally:
        type(side.objective).offers = before
    assert all(parameter.grad is not None for parameter in side.discriminator.parameters())

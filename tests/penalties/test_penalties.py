"""Penalties: every one runs, and those with a closed form equal it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from closed_forms import FAKE, REAL, RIGHT, critic, penalised
from tiny_parts import D, N, R, T, make, make_stage, make_words, text

from stackflower import registry
from stackflower.adversary import Adversary
from stackflower.objectives.base import Pairs
from stackflower.penalties.base import PenaltyInputs
from stackflower.penalties.feature_matching import FeatureMatching
from stackflower.penalties.gradient import GradientPenalty
from stackflower.penalties.matching_aware import MatchingAwareGradient
from stackflower.penalties.mode_seeking import ModeSeeking
from stackflower.penalties.zero_centred import R1, R2
from stackflower.stages.base import Text, Verdict
from stackflower.text.regions import ConvolutionalRegions, save_image_encoder


@pytest.mark.parametrize("name", registry.list_parts("penalty"))
def test_every_penalty_is_positive_and_moves_its_network(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    save_image_encoder(ConvolutionalRegions(D, 32, 4), tmp_path, D, {})
    context = {"text_folder": str(tmp_path)} if name == "damsm" else {}
    critic, stage, penalty = (
        make("discriminator", "matching", norm="none"),
        make_stage(),
        registry.create("penalty", name, **context),
    )
    texts = text()
    if registry.get("penalty", name).uses_words:
        texts = Text(torch.randn(N, D), texts.condition, words=make_words(N))
    noise = torch.randn(N, stage.noise_dim)
    drawn = stage(torch.randn(N, T), noise).images[0]
    drawn = 30 * drawn if name == "out-of-range" else drawn
    value = penalty(PenaltyInputs(critic, torch.rand(N, 3, R, R), drawn, texts, texts, noise, lambda images: (images,)))
    assert value.ndim == 0 and value.dtype == torch.float32 and value > 0
    value.backward()
    moved = critic if penalty.network == "discriminator" else stage
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in moved.parameters())


def test_a_lazy_penalty_is_weighed_for_the_steps_between() -> None:
    torch.manual_seed(0)
    images, words, noise = torch.rand(N, 3, R, R), text(), torch.randn(N, 3)
    critic = make("discriminator", "matching", norm="none")
    pairs = Pairs(images, images, words, words, words)
    values = {}
    for every, weight in ((1, 2.0), (4, 2.0), (1, 0.0)):
        side = Adversary(
            critic,
            registry.create("objective", "hinge"),
            {"r1": registry.create("penalty", "r1", weight=weight, every=every)},
        )  # type: ignore[arg-type]
        values[every, weight] = [side(pairs, noise, step)[0].get("r1") for step in range(4)]
    assert values[4, 2.0][1:] == [None] * 3 and values[1, 0.0] == [None] * 4, "of weight 0, it costs nothing either"
    assert values[4, 2.0][0].item() == pytest.approx(4 * values[1, 2.0][0].item())


def test_the_gradient_penalty_equals_its_closed_form() -> None:
    """For D(x) = w Σx² the slope at x̂ is 2wx̂; with real = drawn, x̂ is that image wherever it lies on the line."""
    w, images = torch.tensor(0.7, requires_grad=True), torch.randn(2, 3, 4, 4)

    def judge(x: torch.Tensor, texts: list[Text]) -> list[Verdict]:
        return [Verdict(w * x.square().sum((1, 2, 3)))]

    value = GradientPenalty()(penalised(judge, images, images.clone()))
    value.backward()
    length = images.double().flatten(1).norm(dim=1)
    assert value.item() == pytest.approx(((1.4 * length - 1) ** 2).mean().item(), rel=1e-5)
    assert w.grad.item() == pytest.approx((2 * (1.4 * length - 1) * 2 * length).mean().item(), rel=1e-5)
    seen = []

    def note(x: torch.Tensor, texts: list[Text]) -> list[Verdict]:
        seen.append(x.detach()[:, 0, 0, 0])
        return [Verdict(w * x.sum((1, 2, 3)))]

    GradientPenalty()(penalised(note, REAL, FAKE))
    assert (seen[0].abs() < 1).all() and seen[0][0] != seen[0][1], (
        "between real (1) and drawn (-1), each at its own place"
    )


def test_the_matching_aware_penalty_and_its_gradient_equal_their_closed_form() -> None:
    """For D(x, e) = w Σx² + v Σe the slopes are 2wx and v: the penalty is (2w‖x‖ + v√T)^p."""
    w, v = torch.tensor(0.7, requires_grad=True), torch.tensor(0.4, requires_grad=True)
    images, words = torch.randn(2, 3, 4, 4) / 4, Text(torch.randn(2, 5), torch.randn(2, 3))

    def judge(x: torch.Tensor, texts: list[Text]) -> list[Verdict]:
        return [Verdict(w * x.square().sum((1, 2, 3)) + v * texts[0].embedding.sum(1))]

    value = MatchingAwareGradient(power=3)(penalised(judge, images, FAKE, text=words))
    value.backward()
    length = images.double().flatten(1).norm(dim=1)
    inner = 2 * 0.7 * length + 0.4 * 5**0.5
    assert value.item() == pytest.approx((inner**3).mean().item(), rel=1e-5)
    assert w.grad.item() == pytest.approx((3 * inner**2 * 2 * length).mean().item(), rel=1e-5)
    assert v.grad.item() == pytest.approx((3 * inner**2 * 5**0.5).mean().item(), rel=1e-5)


@pytest.mark.parametrize("penalty", [R1, R2])
def test_zero_centred_penalties_and_their_gradients_equal_their_closed_form(penalty: type[R1] | type[R2]) -> None:
    """For D(x) = wᵀx² the slope is 2wx: ½‖∇D‖² = 2 Σ (w x)², whose derivative by w is 4 w x²; R1: real, R2: drawn."""
    weight = torch.randn(3, 4, 4, requires_grad=True)
    images = torch.randn(2, 3, 4, 4)

    other = torch.randn_like(images)
    drawn = Text(torch.randn(2, 3), torch.randn(2, 3))

    def judge(x: torch.Tensor, texts: list[Text]) -> list[Verdict]:
        assert texts[0] is (RIGHT if penalty is R1 else drawn)
        return [Verdict((weight * x.square()).sum((1, 2, 3)))]

    real, fake = (images, other) if penalty is R1 else (other, images)
    value = penalty(weight=1.0)(penalised(judge, real, fake, fake_text=drawn))
    w, x = weight.detach().double(), images.double()
    assert value.item() == pytest.approx((2 * (w * x).square().sum((1, 2, 3))).mean().item(), rel=1e-5)
    value.backward()
    assert torch.allclose(weight.grad.double(), (4 * w * x.square()).mean(0), rtol=1e-4)


def test_mode_seeking_compares_neighbours() -> None:
    fake = torch.zeros(4, 3, 2, 2)
    fake[1], fake[3] = 0.5, 0.25
    noise = torch.zeros(4, 5)
    noise[1], noise[3] = 1.0, 2.0
    value = ModeSeeking()(penalised(critic({}), fake, fake, noise=noise)).item()
    assert value == pytest.approx((1 / 0.5 + 2 / 0.25) / 2, rel=1e-4)


def test_feature_matching_equals_numpys() -> None:
    real, fake = torch.randn(6, 3, 4, 4), 0.5 + 2 * torch.randn(6, 3, 4, 4).requires_grad_()
    value = FeatureMatching()(penalised(critic({}), real, fake))
    described = []
    for images in (real, fake.detach()):
        x = images.double().numpy()
        described.append(np.concatenate([x.mean((2, 3)), np.sqrt(x.var((2, 3)) + 1e-4)], 1))
    mean, deviation = described[0].mean(0), described[0].std(0, ddof=1)
    z = (described[1] - mean) / deviation
    expected = np.mean(z.mean(0) ** 2) + np.mean((np.sqrt(z.var(0, ddof=1) + 1e-4) - 1) ** 2)
    assert value.item() == pytest.approx(expected, rel=1e-4)
    assert FeatureMatching()(penalised(critic({}), real, real.flip(0))).item() < 1e-4
    (gradient,) = torch.autograd.grad(value, fake)
    assert (gradient * (fake - real.mean()).sign()).sum() > 0, "brighter and wider than real: drawn back"


def test_out_of_range_is_a_parabola_beyond_one() -> None:
    images = torch.tensor([-3.0, -1, 0.2, 1, 1.5, 0]).reshape(1, 3, 1, 2).requires_grad_()
    value = registry.create("penalty", "out-of-range")(penalised(critic({}), images, images))
    assert value.item() == pytest.approx((2**2 + 0.5**2) / 6)
    value.backward()
    assert images.grad.flatten().tolist() == pytest.approx([-2 * 2 / 6, 0, 0, 0, 2 * 0.5 / 6, 0])

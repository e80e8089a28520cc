"""BEGAN's objective against its closed forms in float64."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from stackflower import registry
from stackflower.objectives.base import Pairs
from stackflower.objectives.began import BoundaryEquilibrium
from stackflower.stages.base import Text, Verdict

N = 6


def words() -> Text:
    return Text(torch.zeros(N, 2), torch.zeros(N, 2))


class Errors:
    """A critic that answers with given errors, one list a call."""

    def __init__(self, *answers: list[torch.Tensor]):
        self.answers = list(answers)

    def __call__(self, images: torch.Tensor, texts: object) -> list[Verdict]:
        return [Verdict(match) for match in self.answers.pop(0)]


def terms_of(
    goal: BoundaryEquilibrium, real: torch.Tensor, wrong: torch.Tensor, fake: torch.Tensor
) -> dict[str, torch.Tensor]:
    pairs = Pairs(torch.zeros(N, 3, 2, 2), torch.zeros(N, 3, 2, 2), words(), words(), words())
    return goal.discriminator_terms(Errors([real, wrong], [fake]), pairs)


def test_terms_are_the_papers_and_the_wrong_loss_is_capped() -> None:
    goal = BoundaryEquilibrium(threshold=0.0, negative_weight=0.5, negative_cap=1.5)
    goal.k.fill_(0.3)
    real = torch.tensor([1.0, 2, 3, 4, 5, 6], dtype=torch.float64, requires_grad=True)
    wrong = torch.tensor([1.2, 9, 3.5, 9, 5.5, 9.5], dtype=torch.float64, requires_grad=True)
    fake = torch.rand(N, dtype=torch.float64)
    terms = terms_of(goal, real, wrong, fake)
    capped = np.minimum(wrong.detach().numpy(), 1.5 * real.detach().numpy())
    assert terms["real"].item() == pytest.approx(3.5)
    assert terms["fake"].item() == pytest.approx(-0.3 * fake.mean().item(), rel=1e-6)
    assert terms["negative"].item() == pytest.approx(-0.5 * capped.mean(), rel=1e-6)
    sum(terms.values()).backward()
    assert wrong.grad.tolist() == pytest.approx(
        [-0.5 / 6, 0, -0.5 / 6, 0, -0.5 / 6, 0], abs=1e-9
    )  # beyond the cap: none
    assert real.grad.tolist() == pytest.approx([1 / 6] * 6, abs=1e-7)  # the cap itself is not pushed up


def test_k_follows_its_path_and_stays_within_bounds() -> None:
    goal = BoundaryEquilibrium(gamma=0.5, rate=0.1)
    expected = 0.0
    generator = torch.Generator().manual_seed(0)
    for _ in range(200):
        real, fool = torch.rand(2, generator=generator, dtype=torch.float64).tolist()
        told = goal.after_step({"real": torch.tensor(real), "adversarial": torch.tensor(fool)})
        expected = min(max(expected + 0.1 * (0.5 * real - fool), 0.0), 1.0)
        assert goal.k.item() == pytest.approx(expected, abs=1e-5) == told["k"].item()
        assert told["convergence"].item() == pytest.approx(real + abs(0.5 * real - fool), abs=1e-6)
    for _ in range(30):
        goal.after_step({"real": torch.tensor(9.0), "adversarial": torch.tensor(0.0)})
    assert goal.k.item() == 1.0


def test_an_epoch_leaves_out_what_the_epoch_before_found_far_off() -> None:
    torch.manual_seed(0)
    goal = BoundaryEquilibrium(threshold=2.0)
    batches = torch.rand(20, N, dtype=torch.float64)
    for errors in batches:
        terms = terms_of(goal, errors, errors, errors)
        assert terms["real"].item() == pytest.approx(errors.mean().item(), rel=1e-5), "the first epoch keeps all"
    told = goal.after_epoch()
    limit = batches.mean().item() + 2 * batches.numpy().std()
    assert told["limit"].item() == pytest.approx(limit, rel=1e-5) and told["dropped"].item() == 0
    errors = torch.tensor([0.1, 0.2, 0.3, 0.4, 0.5, 50.0], dtype=torch.float64, requires_grad=True)
    terms = terms_of(goal, errors, torch.zeros(N), torch.zeros(N))
    assert terms["real"].item() == pytest.approx(0.3, rel=1e-6)
    terms["real"].backward()
    assert errors.grad[-1] == 0 and (errors.grad[:-1] > 0).all()
    told = goal.after_epoch()
    assert told["dropped"].item() == 1
    # it was measured all the same: the next limit knows it, so it is not lost for good
    values = errors.detach().numpy()
    assert told["limit"].item() == pytest.approx(values.mean() + 2 * values.std(), rel=1e-4)
    assert math.isfinite(goal.outliers.limit.item()) and goal.outliers.statistics.tolist() == [0, 0, 0]


def test_a_discriminator_that_got_worse_goes_on_seeing_real_pictures() -> None:
    goal = BoundaryEquilibrium(threshold=2.0)
    goal.outliers.limit.fill_(1.0)
    for errors, kept in (([0.5, 0.5, 0.5, 9, 9, 9], 3), ([0.5, 0.5, 9, 9, 9, 9], 6), ([9.0] * 6, 6)):
        real = torch.tensor(errors, requires_grad=True)
        terms_of(goal, real, torch.zeros(N), torch.zeros(N))["real"].backward()
        assert (real.grad > 0).sum() == kept
    assert goal.after_epoch()["dropped"].item() == 3


@pytest.mark.parametrize("power", [1, 2])
def test_a_discriminators_errors_are_its_reconstructions(power: int) -> None:
    torch.manual_seed(0)
    sizes = {"text_dim": 5, "condition_dim": 4, "resolution": 16, "channels": 4}
    part = registry.create("discriminator", "began", power=power, **sizes)
    images, text = torch.rand(N, 3, 16, 16), Text(torch.randn(N, 5), torch.randn(N, 4))
    again = part.reconstruct(part.trunk(images), text)
    (verdict,) = part(images, [text])
    expected = ((again.detach().double() - images.double()).abs() ** power).mean((1, 2, 3))
    assert again.shape == images.shape
    assert torch.allclose(verdict.match.double(), expected, atol=1e-6)
    apart = [part(images, [one])[0].match for one in (text, Text(text.embedding.flip(0), text.condition))]
    both = part(images, [text, Text(text.embedding.flip(0), text.condition)])
    assert all(torch.allclose(one, other.match, atol=1e-6) for one, other in zip(apart, both, strict=True))

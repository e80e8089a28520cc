"""Every objective with every discriminator takes a step of both sides."""

from __future__ import annotations

import pytest
import torch
from tiny_parts import N, R, T, every_parameter_learns, make, make_stage, text

from stackflower import registry
from stackflower.adversary import Adversary, frozen
from stackflower.declarations import Requirement
from stackflower.objectives.base import Pairs
from stackflower.stages.base import Text


@pytest.mark.parametrize("objective", registry.list_parts("objective"))
@pytest.mark.parametrize("discriminator", registry.list_parts("discriminator"))
def test_a_step_of_both_sides_reaches_every_parameter(objective: str, discriminator: str) -> None:
    torch.manual_seed(0)
    critic, goal = make("discriminator", discriminator), registry.create("objective", objective)
    wanted = {each.trait for each in goal.requires if isinstance(each, Requirement) and each.of == "discriminator"}
    if not all(trait in critic.offers for trait in wanted):
        pytest.skip(f"{wanted} against {critic.offers} is refused at start-up")
    if objective == "began":
        goal.k.fill_(0.5)  # at 0, where it begins, drawn images do not count
    side, stage = Adversary(critic, goal, {}), make_stage()  # type: ignore[arg-type]
    noise = torch.randn(N, stage.noise_dim)
    drawn = stage(torch.randn(N, T), noise)
    words = Text(torch.randn(N, T), drawn.condition)
    pairs = Pairs(torch.rand(N, 3, R, R), drawn.images[0], words, text() if goal.mismatched else None, words)
    terms, perceived = side(pairs, noise, 0)
    assert torch.autograd.grad(sum(terms.values()), drawn.images[0], allow_unused=True, retain_graph=True) == (None,)
    assert all(term.ndim == 0 and torch.isfinite(term) for term in terms.values())
    spread = torch.linspace(0.5, 1.5, len(terms))  # a bias sees real − ½(wrong + fake), which may cancel
    # where only differences of scores count, an offset of all scores learns nothing
    every_parameter_learns(
        side.discriminator, (torch.stack(list(terms.values())) * spread).sum(), "bias" if goal.relativistic else ""
    )
    side.zero_grad()
    with frozen(side):
        terms = side.generator_terms(pairs._replace(negative_text=None), noise, 0, None, perceived)
    every_parameter_learns(stage, sum(terms.values()) + sum(drawn.terms.values()))
    assert all(parameter.grad is None for parameter in side.parameters()), (
        "the generator's step leaves the discriminator alone"
    )

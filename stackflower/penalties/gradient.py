"""WGAN-GP's gradient penalty."""

from __future__ import annotations

import torch
from torch import Tensor

from stackflower.options import Count, Weight
from stackflower.penalties.base import (
    BOUNDED_GRADIENT,
    INDEPENDENT_SCORES,
    LOGIT_SCORES,
    Penalty,
    PenaltyInputs,
    compute_gradient_norm,
    sum_scores,
)
from stackflower.registry import register


@register("penalty", "gradient")
class GradientPenalty(Penalty):
    """WGAN-GP's gradient penalty (Gulrajani et al. 2017, eq. 3): E[(‖∇D(x̂)‖ − 1)²].

    x̂ is a random interpolation between a real and a generated image, scored with the text of the real one. The critic
    must not use batch normalisation.

    Args:
        weight: λ; 10 in the paper.
        every: interval in steps.
    """

    requires = (LOGIT_SCORES, INDEPENDENT_SCORES)
    offers = (BOUNDED_GRADIENT,)

    def __init__(self, *, weight: Weight = 10.0, every: Count = 1):
        super().__init__(weight=weight, every=every)

    def forward(self, inputs: PenaltyInputs) -> Tensor:
        real, fake = inputs.real.detach().float(), inputs.fake.detach().float()
        share = torch.rand(len(real), 1, 1, 1, device=real.device)
        between = torch.lerp(fake, real, share).requires_grad_()
        (verdict,) = inputs.critic(between, [inputs.text])
        (gradient,) = torch.autograd.grad(sum_scores(verdict), between, create_graph=True)
        return (compute_gradient_norm(gradient) - 1).square().mean()

"""WGAN-GP's gradient penalty."""

from __future__ import annotations

import torch
from torch import Tensor

from stackflower.options import Count, Weight
from stackflower.penalties.base import Penalty, Shown, gradient_norm, total_score
from stackflower.registry import register


@register("penalty", "gradient")
class GradientPenalty(Penalty):
    """Slope of one between real and drawn images (Gulrajani et al. 2017, WGAN-GP, equation 3): E[ (‖∇D(x̂)‖ − 1)² ].

    x̂ lies at a random place on the line from a real image to a drawn one and is judged with the real one's text. The
    critic must judge each picture by itself: no batch norm.

    Args:
        weight: λ; 10 in the paper.
        every: how often it is computed, in steps.
    """

    reads = "logit"

    def __init__(self, *, weight: Weight = 10.0, every: Count = 1):
        super().__init__(weight=weight, every=every)

    def forward(self, shown: Shown) -> Tensor:
        assert shown.real is not None
        real, fake = shown.real.detach().float(), shown.fake.detach().float()
        place = torch.rand(len(real), 1, 1, 1, device=real.device)
        between = torch.lerp(fake, real, place).requires_grad_()
        (verdict,) = shown.critic(between, [shown.text])
        (slope,) = torch.autograd.grad(total_score(verdict), between, create_graph=True)
        return (gradient_norm(slope) - 1).square().mean()

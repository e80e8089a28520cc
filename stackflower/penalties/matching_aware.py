"""DF-GAN's matching-aware gradient penalty."""

from __future__ import annotations

import torch
from torch import Tensor

from stackflower.options import Count, Positive, Weight
from stackflower.penalties.base import Penalty, Shown, gradient_norm, total_score
from stackflower.registry import register
from stackflower.stages.base import Text


@register("penalty", "matching-aware")
class MatchingAwareGradient(Penalty):
    """Matching-aware gradient penalty on real, matching pairs (Tao et al. 2022, DF-GAN, equation 2).

    E[ (‖∇ₓ D(x, e)‖ + ‖∇ₑ D(x, e)‖)^p ], where e is what the discriminator reads of the text.

    Args:
        weight: k; 2 in the paper.
        power: p; 6 in the paper.
        every: how often it is computed, in steps.
    """

    reads = "logit"

    def __init__(self, *, weight: Weight = 2.0, power: Positive = 6.0, every: Count = 1):
        super().__init__(weight=weight, every=every)
        self.power = power

    def forward(self, shown: Shown) -> Tensor:
        assert shown.real is not None
        images = shown.real.detach().float().requires_grad_()
        read = [part.detach().float().requires_grad_() for part in (shown.text.embedding, shown.text.condition)]
        (verdict,) = shown.critic(images, [Text(*read)])
        slopes = torch.autograd.grad(total_score(verdict), [images, *read], create_graph=True, allow_unused=True)
        lengths = [gradient_norm(slope) for slope in slopes if slope is not None]
        return torch.stack(lengths).sum(0).pow(self.power).mean()

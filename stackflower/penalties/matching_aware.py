"""DF-GAN's matching-aware gradient penalty."""

from __future__ import annotations

import torch
from torch import Tensor

from stackflower.options import Count, Positive, Weight
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
from stackflower.stages.base import Text


@register("penalty", "matching-aware")
class MatchingAwareGradient(Penalty):
    """Matching-aware gradient penalty on real, matching pairs (Tao et al. 2022, DF-GAN, eq. 2).

    E[(‖∇ₓ D(x, e)‖ + ‖∇ₑ D(x, e)‖)^p], where e is the text input of the discriminator.

    Args:
        weight: weight k; 2 in the paper.
        power: exponent p; 6 in the paper.
        every: interval in steps.
    """

    requires = (LOGIT_SCORES, INDEPENDENT_SCORES)
    offers = (BOUNDED_GRADIENT,)

    def __init__(self, *, weight: Weight = 2.0, power: Positive = 6.0, every: Count = 1):
        super().__init__(weight=weight, every=every)
        self.power = power

    def forward(self, inputs: PenaltyInputs) -> Tensor:
        images = inputs.real.detach().float().requires_grad_()
        texts = [part.detach().float().requires_grad_() for part in (inputs.text.embedding, inputs.text.condition)]
        embedding, condition = texts
        (verdict,) = inputs.critic(images, [Text(embedding, condition, words=inputs.text.words)])
        gradients = torch.autograd.grad(sum_scores(verdict), [images, *texts], create_graph=True, allow_unused=True)
        norms = [compute_gradient_norm(gradient) for gradient in gradients if gradient is not None]
        return torch.stack(norms).sum(0).pow(self.power).mean()

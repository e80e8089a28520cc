"""R1 and R2, zero-centred gradient penalties (Mescheder et al. 2018)."""

from __future__ import annotations

import torch
from torch import Tensor

from stackflower.options import Count, Weight
from stackflower.penalties.base import BOUNDED_GRADIENT, Penalty, PenaltyInputs, sum_scores
from stackflower.registry import register
from stackflower.stages.base import Critic, Text


def compute_zero_centred_penalty(critic: Critic, images: Tensor, text: Text) -> Tensor:
    """Compute ½·E‖∇ₓ D(x)‖².

    Args:
        critic: scores images against texts.
        images: images x, `(N, 3, R, R)`.
        text: their texts.
    """
    images = images.detach().float().requires_grad_()
    (verdict,) = critic(images, [text])
    (gradient,) = torch.autograd.grad(sum_scores(verdict), images, create_graph=True)
    return 0.5 * gradient.float().square().sum((1, 2, 3)).mean()


@register("penalty", "r1")
class R1(Penalty):
    """Zero-centred gradient penalty on real images (Mescheder et al. 2018): ½·E‖∇ₓ D(x)‖².

    Args:
        weight: weight γ; 10 in the paper.
        every: interval in steps; 16 in StyleGAN2.
    """

    offers = (BOUNDED_GRADIENT,)

    def __init__(self, *, weight: Weight = 10.0, every: Count = 1):
        super().__init__(weight=weight, every=every)

    def forward(self, inputs: PenaltyInputs) -> Tensor:
        return compute_zero_centred_penalty(inputs.critic, inputs.real, inputs.text)


@register("penalty", "r2")
class R2(Penalty):
    """Zero-centred gradient penalty on generated images (Mescheder et al. 2018): ½·E‖∇ₓ D(G(z))‖².

    Combined with ``r1``, it bounds the gradient at generated images too, which stabilises training with a loss that has
    no lower bound. R3GAN (Huang et al. 2024) uses both.

    Args:
        weight: weight γ; the same as that of ``r1`` in both papers.
        every: interval in steps.
    """

    def __init__(self, *, weight: Weight = 10.0, every: Count = 1):
        super().__init__(weight=weight, every=every)

    def forward(self, inputs: PenaltyInputs) -> Tensor:
        return compute_zero_centred_penalty(inputs.critic, inputs.fake, inputs.fake_text)

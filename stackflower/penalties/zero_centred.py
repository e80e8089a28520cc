"""Zero-centred gradient penalties."""

from __future__ import annotations

import torch
from torch import Tensor

from stackflower.options import Count, Weight
from stackflower.penalties.base import Penalty, Shown, total_score
from stackflower.registry import register
from stackflower.stages.base import Critic, Text


@register("penalty", "r1")
class R1(Penalty):
    """Zero-centred gradient penalty on real images (Mescheder et al. 2018): ½·E‖∇ₓ D(x)‖².

    Args:
        weight: γ; 10 in the paper.
        every: how often it is computed, in steps (16 in StyleGAN2).
    """

    def __init__(self, *, weight: Weight = 10.0, every: Count = 1):
        super().__init__(weight=weight, every=every)

    def forward(self, shown: Shown) -> Tensor:
        assert shown.real is not None
        return _zero_centred(shown.critic, shown.real, shown.text)


@register("penalty", "r2")
class R2(Penalty):
    """Zero-centred gradient penalty on drawn images (Mescheder et al. 2018): ½·E‖∇ₓ D(G(z))‖².

    Beside `r1` it bounds the slope where the generator is, too, which with a loss that can fall for ever is what keeps a
    training together (R3GAN, Huang et al. 2024, uses both).

    Args:
        weight: γ; the same as R1's in both papers.
        every: how often it is computed, in steps.
    """

    def __init__(self, *, weight: Weight = 10.0, every: Count = 1):
        super().__init__(weight=weight, every=every)

    def forward(self, shown: Shown) -> Tensor:
        assert shown.drawn is not None
        return _zero_centred(shown.critic, shown.fake, shown.drawn)


def _zero_centred(critic: Critic, images: Tensor, text: Text) -> Tensor:
    """½·E‖∇ₓ D(x)‖² at `images` (N, 3, R, R), each judged with its text."""
    images = images.detach().float().requires_grad_()
    (verdict,) = critic(images, [text])
    (slope,) = torch.autograd.grad(total_score(verdict), images, create_graph=True)
    return 0.5 * slope.float().square().sum((1, 2, 3)).mean()

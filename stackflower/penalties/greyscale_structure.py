"""The competition report's structure loss."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from stackflower.options import Count, Weight
from stackflower.penalties.base import Penalty, Shown
from stackflower.registry import register


@register("penalty", "greyscale-structure")
class GreyscaleStructure(Penalty):
    """The competition report's structure loss, a failed experiment: real pictures in grey are called real, drawn ones not.

    Cross-entropy of D(grey(x), e) against 1 and of D(grey(G(z)), e) against 0. It was meant to make the shape count; the
    generator, which is only asked to seem real, learns that grey is what seems real.

    Args:
        weight: its weight in the discriminator's loss.
        every: how often it is computed, in steps.
    """

    reads = "logit"

    def __init__(self, *, weight: Weight = 1.0, every: Count = 1):
        super().__init__(weight=weight, every=every)

    def forward(self, shown: Shown) -> Tensor:
        assert shown.real is not None and shown.drawn is not None
        luminance = shown.fake.new_tensor([0.299, 0.587, 0.114], dtype=torch.float32)[:, None, None]
        real, fake = (
            (images.detach().float() * luminance).sum(1, keepdim=True).expand(-1, 3, -1, -1)
            for images in (shown.real, shown.fake)
        )
        (on_real,), (on_fake,) = shown.critic(real, [shown.text]), shown.critic(fake, [shown.drawn])
        return F.softplus(-on_real.match).mean() + F.softplus(on_fake.match).mean()

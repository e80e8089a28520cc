"""Structure loss of the competition report."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from stackflower.options import Count, Weight
from stackflower.penalties.base import LOGIT_SCORES, Penalty, PenaltyInputs
from stackflower.registry import register


@register("penalty", "greyscale-structure")
class GreyscaleStructure(Penalty):
    """Structure loss of the competition report, a failed experiment: the discriminator loss on greyscale images.

    Cross-entropy of D(grey(x), e) against 1 and of D(grey(G(z)), e) against 0. It was meant to improve shapes, but the
    generator, which is trained only to look real, learns to generate grey images.

    Args:
        weight: weight in the discriminator's loss.
        every: interval in steps.
    """

    requires = (LOGIT_SCORES,)

    def __init__(self, *, weight: Weight = 1.0, every: Count = 1):
        super().__init__(weight=weight, every=every)

    def forward(self, inputs: PenaltyInputs) -> Tensor:
        luminance = inputs.fake.new_tensor([0.299, 0.587, 0.114], dtype=torch.float32)[:, None, None]
        real, fake = (
            (images.detach().float() * luminance).sum(1, keepdim=True).expand(-1, 3, -1, -1)
            for images in (inputs.real, inputs.fake)
        )
        (on_real,), (on_fake,) = inputs.critic(real, [inputs.text]), inputs.critic(fake, [inputs.fake_text])
        return F.softplus(-on_real.score).mean() + F.softplus(on_fake.score).mean()

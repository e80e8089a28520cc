"""An exponential moving average of a network's weights, its half-life counted in images."""

from __future__ import annotations

import copy
from typing import Generic, TypeVar

import torch
from torch import nn

Network = TypeVar("Network", bound=nn.Module)


class EMA(Generic[Network]):
    """Averaged copy of `module` (Karras et al. 2018); buffers, such as batch statistics, are copied.

    Args:
        half_life: images after which a weight has half faded; 0: the copy always equals the module.
        ramp: the half-life is never more than this share of the images seen, so that an early average is not stale.
    """

    def __init__(self, module: Network, half_life: float, ramp: float = 0.05):
        self.module: Network = copy.deepcopy(module).eval().requires_grad_(False)
        self.half_life, self.ramp = half_life, ramp

    @torch.no_grad()
    def update(self, module: nn.Module, images_seen: int, batch_size: int) -> None:
        """Move towards `module`, after `images_seen` images, the last `batch_size` of them new."""
        half_life = min(self.half_life, images_seen * self.ramp)
        towards = 1.0 - 0.5 ** (batch_size / half_life) if half_life else 1.0
        # what is frozen, as a stage below is, stays what was copied
        learning = [
            (mean, new.detach())
            for mean, new in zip(self.module.parameters(), module.parameters(), strict=True)
            if new.requires_grad
        ]
        means, news = ([pair[side] for pair in learning] for side in (0, 1))
        torch._foreach_lerp_(means, news, towards)
        buffers = list(self.module.buffers())
        if buffers:
            torch._foreach_copy_(buffers, list(module.buffers()))

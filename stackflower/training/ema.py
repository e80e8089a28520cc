"""An exponential moving average of a network's weights, its half-life counted in images."""

from __future__ import annotations

import copy
from typing import Generic, TypeVar

import torch
from torch import nn

Network = TypeVar("Network", bound=nn.Module)


class EMA(Generic[Network]):
    """Averaged copy of a network (Karras et al. 2018); buffers, such as batch statistics, are copied, not averaged.

    Args:
        module: network to average.
        half_life: number of images after which the contribution of old weights is halved; 0: the copy equals the
            network.
        ramp: upper bound of the half-life, as a share of the images seen, so that initial weights are soon forgotten.
    """

    def __init__(self, module: Network, half_life: float, ramp: float = 0.05):
        self.module: Network = copy.deepcopy(module).eval().requires_grad_(False)
        self.half_life, self.ramp = half_life, ramp

    @torch.no_grad()
    def update(self, module: nn.Module, images_seen: int, batch_size: int) -> None:
        """Move the average towards the weights of `module`.

        Args:
            module: network with the current weights.
            images_seen: number of images seen.
            batch_size: number of images since the last update.
        """
        half_life = min(self.half_life, images_seen * self.ramp)
        rate = 1.0 - 0.5 ** (batch_size / half_life) if half_life else 1.0
        new = [parameter.detach() for parameter in module.parameters()]
        torch._foreach_lerp_(list(self.module.parameters()), new, rate)
        buffers = list(self.module.buffers())
        if buffers:
            torch._foreach_copy_(buffers, list(module.buffers()))

"""Captions that an image does not match."""

from __future__ import annotations

import torch
from torch import Tensor

TRIES = 8  # captions looked at for one that is not the picture's own


def below(count: Tensor, generator: torch.Generator) -> Tensor:
    """For each of `count` (N,), a whole number from 0 up to, not with, it."""
    # Apple's GPUs have no float64
    precise = torch.float32 if generator.device.type == "mps" else torch.float64
    draw = torch.rand(len(count), generator=generator, device=generator.device, dtype=precise)
    return (draw * count).long().minimum(count - 1)


class Mismatched:
    """Draws, for each picture, another of a different class, uniformly.

    Pictures without classes are each their own. With one class only, any other picture.

    Args:
        labels: (N,) int64 class of each picture, or None.
        count: N, where there are no labels.
    """

    def __init__(self, labels: Tensor | None, count: int, device: torch.device | str = "cpu"):
        if labels is None or len(labels.unique()) < 2:
            labels = torch.arange(count)
        _, labels = labels.unique(return_inverse=True)
        sizes = torch.bincount(labels)
        starts = sizes.cumsum(0) - sizes
        self.order = labels.argsort(stable=True).to(device)  # pictures, class by class
        self.start, self.size = starts[labels].to(device), sizes[labels].to(device)
        self.labels = labels.to(device)  # (N,), what counts as the class of each picture

    def __call__(self, index: Tensor, generator: torch.Generator) -> Tensor:
        """`index` (n,) of pictures → (n,) of pictures of other classes."""
        start, size = self.start[index], self.size[index]
        others = (len(self.order) - size).clamp_min(1)
        draw = below(others, generator)
        return self.order[torch.where(draw >= start, draw + size, draw) % len(self.order)]

"""Functions for rendering the synthetic flowers, on tensors (B, H, W) of a batch of images."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

Planes = list[Tensor]  # the red, green and blue planes of a batch, (B, H, W) each


class Draws:
    """Random draws from a table (B, K) of uniform numbers, whose columns are used once each, in order."""

    def __init__(self, table: Tensor) -> None:
        self._table, self._next = table, 0

    def __call__(self, low: float, high: float, *shape: int) -> Tensor:
        """Draw numbers (B, *shape), uniform between `low` and `high`."""
        start, self._next = self._next, self._next + math.prod(shape)
        if self._next > self._table.shape[1]:
            raise RuntimeError("an image needs more random numbers than its row of the table holds")
        return self._table[:, start : self._next].reshape(-1, *shape) * (high - low) + low


def pick(values: Sequence[Sequence[float | Sequence[float]]], index: Tensor) -> Tensor:
    """Return the rows of a constant table at `index` (B,)."""
    return torch.tensor(values)[index]


def flat(values: Tensor) -> Tensor:
    """Reshape (B,) to (B, 1, 1), to broadcast with (B, H, W)."""
    return values[..., None, None]


def step(values: Tensor) -> Tensor:
    """Compute the smoothstep: 0 below 0, 1 above 1, a cubic in between."""
    values = values.clamp(0, 1)
    return values * values * (3 - 2 * values)


def wave(turns: Tensor) -> Tensor:
    """Approximate cos(2π · `turns`) by a cubic."""
    swing = (torch.remainder(turns, 1) * 2 - 1).abs()
    return swing * swing * (6 - 4 * swing) - 1


def fade(values: Tensor) -> Tensor:
    """Compute exp(`values`) with `torch.exp2`."""
    return torch.exp2(values * (1 / math.log(2)))


def nearest(values: Tensor, spacing: Tensor) -> Tensor:
    """Round `values` / `spacing` to whole numbers."""
    return torch.div(values + 0.5 * spacing, spacing, rounding_mode="floor")


def at(values: Tensor, index: Tensor) -> Tensor:
    """Return the entries of the flattened `values` at `index`, in the shape of `index`."""
    return values.reshape(1, -1).gather(1, index.reshape(1, -1)).view(index.shape)


def positions(side: int) -> Tensor:
    """Return the centres of `side` pixels in image units."""
    return (torch.arange(side) + 0.5) * (2 / side) - 1


def upsample(grid: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Interpolate a grid (B, n, n) over the image by a cubic B-spline at columns x and rows y, to (B, H, W)."""
    side = grid.shape[-1]
    for line, dim in ((y, 1), (x, 2)):
        position = (line.flatten() + 1) * (side / 2) - 0.5
        t = position - position.floor()
        weights = ((1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, 3 * (t + t**2 - t**3) + 1, t**3)
        total: Tensor | float = 0.0
        for tap, weight in enumerate(weights):
            index = (position.floor().long() + tap - 1).clamp(0, side - 1)
            index, weight = (index[:, None], weight[:, None]) if dim == 1 else (index, weight)
            shape = (len(grid), len(position), side) if dim == 1 else (*grid.shape[:2], len(position))
            total = total + grid.gather(dim, index.expand(shape)) * (weight / 6)
        grid = torch.as_tensor(total)
    return grid


def composite(image: Planes, colour: Tensor, shade: Tensor | None, alpha: Tensor) -> Planes:
    """Lay `colour` (B, 3) times `shade` (default: 1) over `image`, with opacity `alpha`."""
    tones = [flat(colour[:, c]) for c in range(3)]
    return [
        torch.lerp(plane, (tone if shade is None else tone * shade).expand_as(plane), alpha)
        for plane, tone in zip(image, tones, strict=True)
    ]

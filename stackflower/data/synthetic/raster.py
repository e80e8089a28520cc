"""Functions for rendering the synthetic flowers, on tensors (B, H, W) of a batch of images."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

Planes = list[Tensor]  # red, green and blue of B images: three (B, H, W)


class Draws:
    """Random draws from a table (B, K) of uniform numbers: each column is used once, in a fixed order."""

    def __init__(self, table: Tensor) -> None:
        self._table, self._next = table, 0

    def __call__(self, low: float, high: float, *shape: int) -> Tensor:
        """(B, *shape) uniform between `low` and `high`."""
        start, self._next = self._next, self._next + math.prod(shape)
        if self._next > self._table.shape[1]:
            raise RuntimeError("an image needs more random numbers than its row of the table has")
        return self._table[:, start : self._next].reshape(-1, *shape) * (high - low) + low


def pick(values: Sequence[Sequence[float | Sequence[float]]], index: Tensor) -> Tensor:
    """The rows of a constant table at `index` (B,)."""
    return torch.tensor(values)[index]


def flat(values: Tensor) -> Tensor:
    """(B,) reshaped to broadcast with (B, H, W)."""
    return values[..., None, None]


def step(values: Tensor) -> Tensor:
    """Smoothstep: 0 below 0, 1 above 1, cubic between."""
    values = values.clamp(0, 1)
    return values * values * (3 - 2 * values)


def wave(turns: Tensor) -> Tensor:
    """An approximation of cos(2π · `turns`) by a cubic."""
    swing = (torch.remainder(turns, 1) * 2 - 1).abs()
    return swing * swing * (6 - 4 * swing) - 1


def fade(values: Tensor) -> Tensor:
    """exp(`values`), by exp2."""
    return torch.exp2(values * (1 / math.log(2)))


def nearest(values: Tensor, spacing: Tensor) -> Tensor:
    """`values` / `spacing`, rounded to whole numbers."""
    return torch.div(values + 0.5 * spacing, spacing, rounding_mode="floor")


def at(values: Tensor, index: Tensor) -> Tensor:
    """The entries of the flattened `values` at `index`."""
    return values.reshape(1, -1).gather(1, index.reshape(1, -1)).view(index.shape)


def positions(side: int) -> Tensor:
    """The centres of `side` pixels, in image units."""
    return (torch.arange(side) + 0.5) * (2 / side) - 1


def upsample(grid: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """A grid (B, n, n) over the image, interpolated by a cubic B-spline at columns x and rows y: (B, H, W)."""
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
    """A layer of `colour` (B, 3) times `shade`, of opacity `alpha`, over `image`."""
    tones = [flat(colour[:, c]) for c in range(3)]
    return [
        torch.lerp(plane, (tone if shade is None else tone * shade).expand_as(plane), alpha)
        for plane, tone in zip(image, tones, strict=True)
    ]

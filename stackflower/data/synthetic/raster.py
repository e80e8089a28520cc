"""Small tools that the drawn flowers are rasterised with: tensors of pictures (B, H, W), no loop over pictures."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

Planes = list[Tensor]  # the red, the green and the blue of B pictures: three (B, H, W)


class Draws:
    """Hands out the columns of a (B, K) table of uniform numbers, each once, in a fixed order."""

    def __init__(self, table: Tensor) -> None:
        self._table, self._next = table, 0

    def __call__(self, low: float, high: float, *shape: int) -> Tensor:
        """(B, *shape) numbers between ``low`` and ``high``."""
        start, self._next = self._next, self._next + math.prod(shape)
        if self._next > self._table.shape[1]:
            raise RuntimeError("a picture asks for more random numbers than its row holds")
        return self._table[:, start : self._next].reshape(-1, *shape) * (high - low) + low


def pick(values: Sequence[Sequence[float | Sequence[float]]], index: Tensor) -> Tensor:
    return torch.tensor(values)[index]


def flat(values: Tensor) -> Tensor:
    """(B,) numbers, or one channel's, shaped to go with (B, H, W)."""
    return values[..., None, None]


def step(values: Tensor) -> Tensor:
    """0 below 0, 1 above 1, smooth between."""
    values = values.clamp(0, 1)
    return values * values * (3 - 2 * values)


def wave(turns: Tensor) -> Tensor:
    """A smooth wave between -1 and 1, highest at whole ``turns``, much like the cosine."""
    swing = (torch.remainder(turns, 1) * 2 - 1).abs()
    return swing * swing * (6 - 4 * swing) - 1


def fade(values: Tensor) -> Tensor:
    """e to the power of ``values``."""
    return torch.exp2(values * (1 / math.log(2)))


def nearest(values: Tensor, spacing: Tensor) -> Tensor:
    return torch.div(values + 0.5 * spacing, spacing, rounding_mode="floor")


def at(values: Tensor, index: Tensor) -> Tensor:
    """The entries of ``values``, read as one long row, at ``index``."""
    return values.reshape(1, -1).gather(1, index.reshape(1, -1)).view(index.shape)


def positions(side: int) -> Tensor:
    return (torch.arange(side) + 0.5) * (2 / side) - 1


def enlarge(cells: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """(B, H, W): (B, n, n) cells over the picture, smoothed by a cubic B-spline, at columns x and rows y."""
    side = cells.shape[-1]
    for line, dim in ((y, 1), (x, 2)):
        place = (line.flatten() + 1) * (side / 2) - 0.5
        t = place - place.floor()
        weights = ((1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, 3 * (t + t**2 - t**3) + 1, t**3)
        total: Tensor | float = 0.0
        for tap, weight in enumerate(weights):
            index = (place.floor().long() + tap - 1).clamp(0, side - 1)
            index, weight = (index[:, None], weight[:, None]) if dim == 1 else (index, weight)
            shape = (len(cells), len(place), side) if dim == 1 else (*cells.shape[:2], len(place))
            total = total + cells.gather(dim, index.expand(shape)) * (weight / 6)
        cells = torch.as_tensor(total)
    return cells


def lay(picture: Planes, colour: Tensor, shade: Tensor | None, alpha: Tensor) -> Planes:
    """``picture`` under a layer of one ``colour`` (B, 3) times ``shade``, as opaque as ``alpha``."""
    tones = [flat(colour[:, c]) for c in range(3)]
    return [
        torch.lerp(plane, (tone if shade is None else tone * shade).expand_as(plane), alpha)
        for plane, tone in zip(picture, tones, strict=True)
    ]

"""Bootstrap intervals of scores."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from stackflower.utils.rng import create_rng

LEVEL = 0.95
RESAMPLES = 1000
CHUNK = 2_000_000  # numbers drawn at a time


def compute_offsets(values: Tensor, count: int, seed: int = 0) -> tuple[float, float]:
    """Bootstrap a mean by percentiles (Efron 1979).

    For a score that is not a mean, `values` are its influence function: what each image adds to the score, to first
    order.

    Args:
        values: one value per image, or per image of a random part of them, `(M,)`.
        count: number of images of the mean. Where only M of them are known, the interval shrinks by √(M / count).
        seed: seed of the resampling.

    Returns:
        How far the 2.5% and 97.5% quantiles of the resampled means lie from the mean.
    """
    values = values.double()
    if len(values) < 2:
        return float("nan"), float("nan")
    generator, means = create_rng(seed, 9), []
    each = max(1, CHUNK // len(values))
    for first in range(0, RESAMPLES, each):
        drawn = torch.randint(len(values), (min(each, RESAMPLES - first), len(values)), generator=generator)
        means.append(values[drawn].mean(1))
    spread = torch.cat(means) - values.mean()
    tail = (1 - LEVEL) / 2
    low, high = spread.quantile(torch.tensor([tail, 1 - tail], dtype=torch.float64))
    shrink = (len(values) / max(count, 1)) ** 0.5
    return float(low) * shrink, float(high) * shrink


def compute_interval(values: Tensor) -> list[float] | None:
    """Return the 95% interval of the mean of `values` `(M,)`, or None for fewer than two."""
    return compute_interval_around(float(values.double().mean()), values, len(values))


def compute_interval_around(score: float, values: Tensor, count: int) -> list[float] | None:
    """Return the 95% interval of a score.

    Args:
        score: the score.
        values: influence `(M,)` of M of the images.
        count: number of images of the score.

    Returns:
        The interval, or None for fewer than two values.
    """
    low, high = compute_offsets(values, count)
    return None if math.isnan(low) else [score + low, score + high]

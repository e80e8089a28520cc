"""Bootstrap intervals of scores."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from stackflower.utils.rng import create_rng

LEVEL = 0.95
RESAMPLES = 1000
CHUNK = 2_000_000  # numbers drawn at a time


def offsets(values: Tensor, count: int, seed: int = 0) -> tuple[float, float]:
    """The percentile bootstrap (Efron 1979) of a mean: how far the 2.5% and 97.5% quantiles of the resampled means lie from the mean.

    A score that is no mean is given its influence function: what each image adds to the score, to first order.

    Args:
        values: (M,) one for each image, or for each of a random part of the images.
        count: number of images that the mean is of, from which M are known: the interval shrinks with √(M / count).
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


def interval(values: Tensor) -> list[float] | None:
    """The interval of the mean of `values` (M,); None of fewer than two."""
    return around(float(values.double().mean()), values, len(values))


def around(score: float, values: Tensor, count: int) -> list[float] | None:
    """The interval of a score of `count` images, of which `values` (M,) is the influence of M; None of fewer than two."""
    low, high = offsets(values, count)
    return None if math.isnan(low) else [score + low, score + high]

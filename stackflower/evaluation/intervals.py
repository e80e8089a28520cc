"""Bootstrap confidence intervals of scores."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from stackflower.utils.rng import create_rng

CONFIDENCE_LEVEL = 0.95
RESAMPLES = 1000
CHUNK = 2_000_000  # random numbers drawn at a time


def compute_offsets(values: Tensor, count: int, seed: int = 0) -> tuple[float, float]:
    """Bootstrap a mean by percentiles (Efron 1979).

    For a score that is not a mean, `values` are its influence function: the contribution of each image to the score, to
    first order.

    Args:
        values: values `(M,)`, one per image or per image of a random subset.
        count: number of images of the mean; with a subset, the interval is scaled by √(M / count).
        seed: seed of the resampling.

    Returns:
        Offsets of the 2.5% and 97.5% quantiles of the resampled means from the mean; NaN for fewer than two values.
    """
    values = values.double()
    if len(values) < 2:
        return float("nan"), float("nan")
    generator, means = create_rng(seed, 9), []
    step = max(1, CHUNK // len(values))
    for first in range(0, RESAMPLES, step):
        drawn = torch.randint(len(values), (min(step, RESAMPLES - first), len(values)), generator=generator)
        means.append(values[drawn].mean(1))
    offsets = torch.cat(means) - values.mean()
    tail = (1 - CONFIDENCE_LEVEL) / 2
    low, high = offsets.quantile(torch.tensor([tail, 1 - tail], dtype=torch.float64))
    scale = (len(values) / max(count, 1)) ** 0.5
    return float(low) * scale, float(high) * scale


def compute_interval(values: Tensor) -> list[float] | None:
    """Compute the 95% interval of the mean of `values` `(M,)`, or return None for fewer than two values."""
    return compute_interval_around(float(values.double().mean()), values, len(values))


def compute_interval_around(score: float, values: Tensor, count: int) -> list[float] | None:
    """Compute the 95% interval of a score.

    Args:
        score: the score.
        values: influence `(M,)` of M images.
        count: number of images of the score.

    Returns:
        The interval, or None for fewer than two values.
    """
    low, high = compute_offsets(values, count)
    return None if math.isnan(low) else [score + low, score + high]

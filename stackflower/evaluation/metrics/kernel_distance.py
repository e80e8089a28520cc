"""Kernel distance."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stackflower.evaluation.intervals import interval_around
from stackflower.evaluation.metrics.base import Metric, MetricInputs, line, unavailable_error
from stackflower.registry import register

SUBSETS, SUBSET_SIZE, SEED = 100, 1000, 2020  # as in torch-fidelity
INFLUENCES = 2000  # images that the interval is taken from


def kernel(one: Tensor, other: Tensor) -> Tensor:
    """(N, M) of features (N, F) and (M, F): (x·y / F + 1)³."""
    return (one @ other.T / one.shape[1] + 1) ** 3


def squared_mmd(one: Tensor, other: Tensor) -> Tensor:
    """Estimate the squared maximum mean discrepancy without bias (Bińkowski et al. 2018, eq. 4).

    The kernel is (x·y / F + 1)³.

    Args:
        one: features `(N, F)`, at least two rows.
        other: features `(M, F)`, at least two rows.
    """
    n, m = len(one), len(other)
    within = [
        (table.sum() - table.diagonal().sum()) / (len(table) * (len(table) - 1))
        for table in (kernel(one, one), kernel(other, other))
    ]
    return within[0] + within[1] - 2 * kernel(one, other).sum() / (n * m)


def influence(one: Tensor, other: Tensor) -> Tensor:
    """Compute what each row of `one` `(N, F)` adds to the squared discrepancy from `other` `(M, F)`.

    Returns:
        Influence `(N,)`, to first order, minus its mean.
    """
    one, other = one.double(), other.double()
    table = kernel(one, one)
    own = (table.sum(1) - table.diagonal()) / (len(one) - 1)
    added = 2 * (own - kernel(one, other).mean(1))
    return added - added.mean()


def kernel_distance(
    one: Tensor, other: Tensor, subsets: int = SUBSETS, subset_size: int = SUBSET_SIZE, seed: int = SEED
) -> tuple[float, float]:
    """Compute mean and population standard deviation of `squared_mmd` over random subsets, drawn as in torch-fidelity.

    Args:
        one: features `(N, F)`, at least `subset_size` rows.
        other: features `(M, F)`, at least `subset_size` rows.
        subsets: number of subsets.
        subset_size: rows of each subset.
        seed: seed of the subsets.
    """
    if not 2 <= subset_size <= min(len(one), len(other)):
        raise ValueError(
            f"Subsets of {subset_size} of {len(one)} and {len(other)} images: allowed are 2 to "
            f"{min(len(one), len(other))}."
        )
    one, other, draw = one.double(), other.double(), np.random.RandomState(seed)
    found = torch.stack(
        [
            squared_mmd(*(table[draw.choice(len(table), subset_size, replace=False)] for table in (one, other)))
            for _ in range(subsets)
        ]
    )
    return float(found.mean()), float(found.std(unbiased=False))


@register("metric", "kid")
class KernelDistance(Metric):
    """Kernel distance of the extractor's features between generated and real images (Bińkowski et al. 2018).

    It is unbiased for any number of images, and KID only with the 2015 Inception weights. The subsets have 1,000
    images, or half of a smaller sample, so that they differ.
    """

    position = 2
    measure, lower_is_better = "kernel_distance_mean", True

    def compute(self, inputs: MetricInputs) -> dict[str, Any]:
        fake, real = inputs.fake.rows.features, inputs.real.rows.features
        smallest = min(len(fake), len(real))
        size = min(SUBSET_SIZE, smallest // 2)
        if size < 2:
            raise unavailable_error("The kernel distance", f"it needs 4 images on each side, and one has {smallest}.")
        mean, deviation = kernel_distance(fake, real, subset_size=size)
        added = influence(fake[:INFLUENCES], real[:INFLUENCES])
        return {
            "kernel_distance_mean": mean,
            "kernel_distance_mean_interval": interval_around(mean, added, len(fake)),
            "kernel_distance_std": deviation,
            "kernel_distance_subset_size": size,
            "kernel_distance_images": [len(fake), len(real)],
            **({"kernel_distance_is_kid": True} if inputs.original_inception else {}),
        }

    def lines(self, scores: Mapping[str, Any]) -> list[str]:
        mean, deviation = scores["kernel_distance_mean"], scores["kernel_distance_std"]
        text = f"{mean:.4g} ± {deviation:.2g}   {SUBSETS} subsets of {scores['kernel_distance_subset_size']:,}"
        label = "KID" if scores.get("kernel_distance_is_kid") else "kernel distance"
        return [line(label, text, scores["kernel_distance_mean_interval"])]

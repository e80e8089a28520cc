"""Kernel distance."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stackflower.evaluation.intervals import compute_interval_around
from stackflower.evaluation.metrics.base import Metric, MetricInputs, build_unavailable_error, format_line
from stackflower.registry import register

SUBSETS, SUBSET_SIZE, SEED = 100, 1000, 2020  # as in torch-fidelity
MAX_INFLUENCES = 2000  # images per side whose influence the interval is computed from


def compute_kernel(x: Tensor, y: Tensor) -> Tensor:
    """Compute the kernel `(N, M)` of features `(N, F)` and `(M, F)`: (x·y / F + 1)³."""
    return (x @ y.T / x.shape[1] + 1) ** 3


def squared_mmd(fake: Tensor, real: Tensor) -> Tensor:
    """Estimate the squared maximum mean discrepancy without bias (Bińkowski et al. 2018, eq. 4).

    The kernel is (x·y / F + 1)³.

    Args:
        fake: features `(N, F)`, at least two rows.
        real: features `(M, F)`, at least two rows.
    """
    n, m = len(fake), len(real)
    within = [
        (table.sum() - table.diagonal().sum()) / (len(table) * (len(table) - 1))
        for table in (compute_kernel(fake, fake), compute_kernel(real, real))
    ]
    return within[0] + within[1] - 2 * compute_kernel(fake, real).sum() / (n * m)


def compute_influence(fake: Tensor, real: Tensor) -> Tensor:
    """Compute what each row of `fake` `(N, F)` adds to the squared discrepancy from `real` `(M, F)`.

    Returns:
        Influence `(N,)`, to first order, minus its mean.
    """
    fake, real = fake.double(), real.double()
    table = compute_kernel(fake, fake)
    within = (table.sum(1) - table.diagonal()) / (len(fake) - 1)
    influence = 2 * (within - compute_kernel(fake, real).mean(1))
    return influence - influence.mean()


def kernel_distance(
    fake: Tensor, real: Tensor, subsets: int = SUBSETS, subset_size: int = SUBSET_SIZE, seed: int = SEED
) -> tuple[float, float]:
    """Compute mean and population standard deviation of `squared_mmd` over random subsets, drawn as in torch-fidelity.

    Args:
        fake: features `(N, F)`, at least `subset_size` rows.
        real: features `(M, F)`, at least `subset_size` rows.
        subsets: number of subsets.
        subset_size: rows of each subset.
        seed: seed of the subsets.

    Raises:
        ValueError: fewer images than `subset_size`, or a size below 2.
    """
    if not 2 <= subset_size <= min(len(fake), len(real)):
        raise ValueError(
            f"`subset_size={subset_size}` for {len(fake)} and {len(real)} images: allowed are 2 to "
            f"{min(len(fake), len(real))}."
        )
    fake, real, draw = fake.double(), real.double(), np.random.RandomState(seed)
    distances = torch.stack(
        [
            squared_mmd(*(table[draw.choice(len(table), subset_size, replace=False)] for table in (fake, real)))
            for _ in range(subsets)
        ]
    )
    return float(distances.mean()), float(distances.std(unbiased=False))


@register("metric", "kid")
class KernelDistance(Metric):
    """Kernel distance of the extractor's features between generated and real images (Bińkowski et al. 2018).

    It is unbiased for any number of images, and called KID with the 2015 Inception weights only. The subsets have 1,000
    images; with fewer than 2,000 images on a side, half of them, so that subsets differ.
    """

    position = 2
    measure, lower_is_better = "kernel_distance_mean", True

    def compute(self, inputs: MetricInputs) -> dict[str, Any]:
        fake, real = inputs.fake.rows.features, inputs.real.rows.features
        smallest = min(len(fake), len(real))
        size = min(SUBSET_SIZE, smallest // 2)
        if size < 2:
            raise build_unavailable_error(
                "The kernel distance", f"it needs 4 images on each side, and one side has {smallest}."
            )
        mean, deviation = kernel_distance(fake, real, subset_size=size)
        influence = compute_influence(fake[:MAX_INFLUENCES], real[:MAX_INFLUENCES])
        return {
            "kernel_distance_mean": mean,
            "kernel_distance_mean_interval": compute_interval_around(mean, influence, len(fake)),
            "kernel_distance_std": deviation,
            "kernel_distance_subset_size": size,
            "kernel_distance_images": [len(fake), len(real)],
            **({"kernel_distance_is_kid": True} if inputs.original_inception else {}),
        }

    def lines(self, scores: Mapping[str, Any]) -> list[str]:
        mean, deviation = scores["kernel_distance_mean"], scores["kernel_distance_std"]
        text = f"{mean:.4g} ± {deviation:.2g}   {SUBSETS} subsets of {scores['kernel_distance_subset_size']:,}"
        label = "KID" if scores.get("kernel_distance_is_kid") else "kernel distance"
        return [format_line(label, text, scores["kernel_distance_mean_interval"])]

"""Fréchet distance."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from stackflower.evaluation.intervals import interval_around
from stackflower.evaluation.metrics.base import Metric, MetricInputs, line, unavailable_error
from stackflower.evaluation.statistics import Moments
from stackflower.registry import register

SMALL_SAMPLE = 2048  # images below which the distance is biased
NEGLIGIBLE = 1e-10  # eigenvalues below this share of the largest are rounding


class Distance(NamedTuple):
    """A Fréchet distance, and how it changes with the first Gaussian."""

    value: float
    gap: Tensor  # (F,) μ₁ − μ₂
    slope: Tensor  # (F, F) derivative for Σ₁: I − T, T the optimal transport from the first Gaussian to the second
    covariance: Tensor  # (F, F) Σ₁
    mean: Tensor  # (F,) μ₁

    def influence(self, features: Tensor) -> Tensor:
        """Compute what each image of the first side adds to the distance, to first order, minus the mean.

        Args:
            features: features `(N, F)` of the images.

        Returns:
            Influence `(N,)`.
        """
        away = features.double() - self.mean
        return 2 * away @ self.gap + ((away @ self.slope) * away).sum(1) - (self.slope * self.covariance).sum()


def distance_of_moments(one: Moments, other: Moments) -> Distance:
    """Fréchet distance of two Gaussians (Dowson & Landau 1982): |μ₁−μ₂|² + tr(Σ₁ + Σ₂ − 2(Σ₁Σ₂)^½)."""
    first, second = one.covariance, other.covariance
    # the eigenvalues of Σ₁Σ₂ are those of the symmetric √Σ₁ Σ₂ √Σ₁: real and not negative
    values, vectors = torch.linalg.eigh(first)
    values = values.clamp_min(0)
    root = vectors * values.sqrt() @ vectors.T
    inner, turned = torch.linalg.eigh(root @ second @ root)
    cross = inner.clamp_min(0).sqrt()
    gap = one.mean - other.mean
    value = gap.square().sum() + first.trace() + second.trace() - 2 * cross.sum()
    known = values > NEGLIGIBLE * values.max()
    inverse = torch.where(known, values, 1).rsqrt() * known
    back = vectors * inverse @ vectors.T
    transport = back @ (turned * cross @ turned.T) @ back
    slope = torch.eye(len(first), dtype=torch.float64) - transport
    return Distance(float(value), gap, slope, first, one.mean)


def frechet_distance(one: Tensor, other: Tensor) -> float:
    """Compute the Fréchet distance of two Gaussians fitted to features (Heusel et al. 2017).

    Args:
        one: features `(N, F)`, at least two rows.
        other: features `(M, F)`, at least two rows.
    """
    return distance_of_moments(Moments.of(one), Moments.of(other)).value


@register("metric", "fid")
class FrechetDistance(Metric):
    """Fréchet distance of the extractor's features between generated and real images (Heusel et al. 2017).

    It is FID only with the 2015 Inception weights. Its interval covers the choice of generated images, not the bias of
    small samples.
    """

    position = 1
    measure, lower_is_better = "frechet_distance", True

    def compute(self, inputs: MetricInputs) -> dict[str, Any]:
        fake, real = inputs.fake, inputs.real
        if min(fake.count, real.count) < 2:
            raise unavailable_error("The Fréchet distance", "it needs 2 images on each side.")
        if not all(bool(side.moments.scatter.isfinite().all()) for side in (fake, real)):
            raise unavailable_error("The Fréchet distance", "the extractor gives features that are not finite.")
        found = distance_of_moments(fake.moments, real.moments)
        scores: dict[str, Any] = {
            "frechet_distance": found.value,
            "frechet_distance_interval": interval_around(found.value, found.influence(fake.rows.features), fake.count),
        }
        if inputs.original_inception:
            scores["frechet_distance_is_fid"] = True
        if min(fake.count, real.count) < SMALL_SAMPLE:
            scores["frechet_distance_note"] = f"biased upwards: fewer than {SMALL_SAMPLE:,} images on a side"
        return scores

    def lines(self, scores: Mapping[str, Any]) -> list[str]:
        note = scores.get("frechet_distance_note", "")
        label = "FID" if scores.get("frechet_distance_is_fid") else "Fréchet distance"
        text = f"{scores['frechet_distance']:.2f}" + (f"   ({note})" if note else "")
        return [line(label, text, scores["frechet_distance_interval"])]

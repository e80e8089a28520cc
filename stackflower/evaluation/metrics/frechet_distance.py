"""Fréchet distance."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from stackflower.evaluation.metrics.base import Metric, Sample, line, unavailable
from stackflower.registry import register

SMALL_SAMPLE = 2048  # images below which the distance is biased


def frechet_distance(one: Tensor, other: Tensor) -> float:
    """Fréchet distance of two Gaussians fitted to features (Heusel et al. 2017): |μ₁−μ₂|² + tr(Σ₁ + Σ₂ − 2(Σ₁Σ₂)^½).

    Args:
        one, other: features (N, F) and (M, F), at least two rows each.
    """
    means, covariances = [], []
    for features in (one.double(), other.double()):
        means.append(features.mean(0))
        covariances.append(torch.atleast_2d(torch.cov(features.T)))
    # the eigenvalues of Σ₁Σ₂ are those of the symmetric √Σ₁ Σ₂ √Σ₁: real and not negative
    values, vectors = torch.linalg.eigh(covariances[0])
    root = vectors * values.clamp_min(0).sqrt() @ vectors.T
    cross = torch.linalg.eigvalsh(root @ covariances[1] @ root).clamp_min(0).sqrt().sum()
    distance = (means[0] - means[1]).square().sum() + covariances[0].trace() + covariances[1].trace() - 2 * cross
    return float(distance)


@register("metric", "fid")
class FrechetDistance(Metric):
    """Fréchet distance of the extractor's features between generated and real images (Heusel et al. 2017).

    It is FID only with the 2015 Inception weights.
    """

    position = 1
    measure, lower_is_better = "frechet_distance", True

    def compute(self, sample: Sample) -> dict[str, Any]:
        sides = sample.fake.features, sample.real.features
        if min(len(side) for side in sides) < 2:
            raise unavailable("The Fréchet distance", "it needs 2 images on each side.")
        if not all(bool(side.isfinite().all()) for side in sides):
            raise unavailable("The Fréchet distance", "the extractor gives features that are not finite.")
        scores: dict[str, Any] = {"frechet_distance": frechet_distance(sample.fake.features, sample.real.features)}
        if sample.original_inception:
            scores["frechet_distance_is_fid"] = True
        if min(len(sample.fake.features), len(sample.real.features)) < SMALL_SAMPLE:
            scores["frechet_distance_note"] = f"biased upwards: fewer than {SMALL_SAMPLE:,} images on a side"
        return scores

    def lines(self, scores: Mapping[str, Any]) -> list[str]:
        note = scores.get("frechet_distance_note", "")
        label = "FID" if scores.get("frechet_distance_is_fid") else "Fréchet distance"
        return [line(label, f"{scores['frechet_distance']:.2f}" + (f"   ({note})" if note else ""))]

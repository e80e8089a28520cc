"""Fréchet distance."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from stackflower.evaluation.intervals import compute_interval_around
from stackflower.evaluation.metrics.base import Metric, MetricInputs, build_unavailable_error, format_line
from stackflower.evaluation.statistics import Moments
from stackflower.registry import register

SMALL_SAMPLE = 2048  # the distance is noticeably biased below this number of images
NEGLIGIBLE = 1e-10  # eigenvalues below this share of the largest are rounding errors


class Distance(NamedTuple):
    """A Fréchet distance, and its derivatives with respect to the first Gaussian."""

    value: float
    gap: Tensor  # (F,) μ₁ − μ₂
    slope: Tensor  # (F, F) derivative ∂/∂Σ₁ = I − T, where T is the optimal transport from the first to the second
    covariance: Tensor  # (F, F) Σ₁
    mean: Tensor  # (F,) μ₁

    def compute_influence(self, features: Tensor) -> Tensor:
        """Compute what each image of the first Gaussian adds to the distance, to first order, minus the mean.

        Args:
            features: features `(N, F)` of the images.

        Returns:
            Influence `(N,)`.
        """
        centred = features.double() - self.mean
        return 2 * centred @ self.gap + ((centred @ self.slope) * centred).sum(1) - (self.slope * self.covariance).sum()


def compute_moment_distance(fake: Moments, real: Moments) -> Distance:
    """Compute the Fréchet distance of two Gaussians (Dowson & Landau 1982): |μ₁−μ₂|² + tr(Σ₁ + Σ₂ − 2(Σ₁Σ₂)^½).

    Args:
        fake: mean μ₁ and covariance Σ₁ of the generated images.
        real: mean μ₂ and covariance Σ₂ of the real images.
    """
    fake_covariance, real_covariance = fake.covariance, real.covariance
    # Σ₁Σ₂ has the eigenvalues of the symmetric √Σ₁ Σ₂ √Σ₁, which are real and not negative
    values, vectors = torch.linalg.eigh(fake_covariance)
    values = values.clamp_min(0)
    root = vectors * values.sqrt() @ vectors.T
    product_values, product_vectors = torch.linalg.eigh(root @ real_covariance @ root)
    cross = product_values.clamp_min(0).sqrt()
    gap = fake.mean - real.mean
    value = gap.square().sum() + fake_covariance.trace() + real_covariance.trace() - 2 * cross.sum()
    positive = values > NEGLIGIBLE * values.max()
    inverse = torch.where(positive, values, 1).rsqrt() * positive
    inverse_root = vectors * inverse @ vectors.T
    transport = inverse_root @ (product_vectors * cross @ product_vectors.T) @ inverse_root
    slope = torch.eye(len(fake_covariance), dtype=torch.float64) - transport
    return Distance(float(value), gap, slope, fake_covariance, fake.mean)


def frechet_distance(fake: Tensor, real: Tensor) -> float:
    """Compute the Fréchet distance of two Gaussians fitted to features (Heusel et al. 2017).

    Args:
        fake: features `(N, F)`, at least two rows.
        real: features `(M, F)`, at least two rows.
    """
    return compute_moment_distance(Moments.of(fake), Moments.of(real)).value


@register("metric", "fid")
class FrechetDistance(Metric):
    """Fréchet distance of the extractor's features between generated and real images (Heusel et al. 2017).

    It is called FID with the 2015 Inception weights only. Its interval covers the choice of generated images, not the
    bias of small samples.
    """

    position = 1
    measure, lower_is_better = "frechet_distance", True

    def compute(self, inputs: MetricInputs) -> dict[str, Any]:
        fake, real = inputs.fake, inputs.real
        if min(fake.count, real.count) < 2:
            raise build_unavailable_error("The Fréchet distance", "it needs at least 2 generated and 2 real images.")
        if not all(bool(side.moments.scatter.isfinite().all()) for side in (fake, real)):
            raise build_unavailable_error("The Fréchet distance", "the extractor gives features that are not finite.")
        distance = compute_moment_distance(fake.moments, real.moments)
        scores: dict[str, Any] = {
            "frechet_distance": distance.value,
            "frechet_distance_interval": compute_interval_around(
                distance.value, distance.compute_influence(fake.rows.features), fake.count
            ),
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
        return [format_line(label, text, scores["frechet_distance_interval"])]

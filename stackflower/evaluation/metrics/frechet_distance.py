"""Fréchet distance."""

from __future__ import annotations

import torch
from torch import Tensor


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

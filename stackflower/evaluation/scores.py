"""Scores as pure functions of features and logits, in float64."""

from __future__ import annotations

import torch
from torch import Tensor


def inception_score(logits: Tensor, splits: int = 10) -> tuple[float, float]:
    """Inception Score (Salimans et al. 2016): exp E_x KL(p(y|x) ‖ p(y)) within each split.

    Args:
        logits: (N, K), in the order in which they are split; no softmax taken.
        splits: number of equal parts (their sizes differ by one at most); none of the images is dropped.

    Returns:
        mean and (population) standard deviation over the splits.
    """
    if not 1 <= splits <= len(logits):
        raise ValueError(f"{splits} splits of {len(logits)} images: wanted 1 to {len(logits)}.")
    scores = []
    for part in logits.double().log_softmax(1).tensor_split(splits):
        marginal = torch.logsumexp(part, 0) - torch.log(torch.tensor(float(len(part)), dtype=torch.float64))
        scores.append(torch.exp((part.exp() * (part - marginal)).sum(1).mean()))
    table = torch.stack(scores)
    return float(table.mean()), float(table.std(unbiased=False))


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


def within_group_variance(features: Tensor, groups: Tensor) -> float:
    """Mean over groups of the variance of features within a group, summed over dimensions.

    Args:
        features: (N, F).
        groups: (N,) int64, such as the number of the caption; groups of one are left out.
    """
    features = features.double()
    _, index, sizes = groups.unique(return_inverse=True, return_counts=True)
    sums = torch.zeros(len(sizes), features.shape[1], dtype=torch.float64).index_add_(0, index, features)
    centred = features - (sums / sizes[:, None])[index]
    squares = torch.zeros(len(sizes), dtype=torch.float64).index_add_(0, index, centred.square().sum(1))
    several = sizes > 1
    if not several.any():
        raise ValueError("No group has two members: there is no variance within.")
    return float((squares[several] / (sizes[several] - 1)).mean())


def share_correct(logits: Tensor, wanted: Tensor, asked: Tensor) -> float:
    """Share of the rows where `asked` (N,) bool in which the largest of `logits` (N, K) is `wanted` (N,)."""
    hits = (logits.argmax(1) == wanted)[asked]
    return float(hits.double().mean()) if len(hits) else float("nan")

"""Diversity of the images of one caption."""

from __future__ import annotations

import torch
from torch import Tensor


def within_group_variance(features: Tensor, groups: Tensor) -> float:
    """Mean over groups of the variance of features within a group, summed over dimensions.

    Args:
        features: (N, F).
        groups: (N,) int64, such as the index of the caption; groups of one row are ignored.
    """
    features = features.double()
    _, index, sizes = groups.unique(return_inverse=True, return_counts=True)
    sums = torch.zeros(len(sizes), features.shape[1], dtype=torch.float64).index_add_(0, index, features)
    centred = features - (sums / sizes[:, None])[index]
    squares = torch.zeros(len(sizes), dtype=torch.float64).index_add_(0, index, centred.square().sum(1))
    several = sizes > 1
    if not several.any():
        raise ValueError("No group has two members, so there is no variance within groups.")
    return float((squares[several] / (sizes[several] - 1)).mean())

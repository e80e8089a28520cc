"""Inception Score."""

from __future__ import annotations

import torch
from torch import Tensor


def inception_score(logits: Tensor, splits: int = 10) -> tuple[float, float]:
    """Inception Score (Salimans et al. 2016): exp E_x KL(p(y|x) ‖ p(y)) within each split.

    Args:
        logits: (N, K), before the softmax, in the order in which they are split.
        splits: number of equal parts (their sizes differ by at most one); no image is dropped.

    Returns:
        mean and (population) standard deviation over the splits.
    """
    if not 1 <= splits <= len(logits):
        raise ValueError(f"{splits} splits of {len(logits)} images: allowed are 1 to {len(logits)}.")
    scores = []
    for part in logits.double().log_softmax(1).tensor_split(splits):
        marginal = torch.logsumexp(part, 0) - torch.log(torch.tensor(float(len(part)), dtype=torch.float64))
        scores.append(torch.exp((part.exp() * (part - marginal)).sum(1).mean()))
    table = torch.stack(scores)
    return float(table.mean()), float(table.std(unbiased=False))

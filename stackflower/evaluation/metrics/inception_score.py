"""Inception Score."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from stackflower.evaluation.metrics.base import Metric, Sample, line, unavailable
from stackflower.registry import register


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


@register("metric", "is")
class InceptionScore(Metric):
    """Inception Score (Salimans et al. 2016) of generated and of real images, and the ratio of the two."""

    position = 0
    measure = "inception_score_mean"

    def compute(self, sample: Sample) -> dict[str, Any]:
        splits, scores = sample.protocol.splits, {}
        if not sample.fake.logits.shape[1]:
            raise unavailable(
                "The Inception Score", "this extractor has no classes; --extractor domain or inception-v3 has."
            )
        for name, logits in (("inception_score", sample.fake.logits), ("real_inception_score", sample.real.logits)):
            if splits > len(logits):
                raise unavailable(
                    "The Inception Score", f"{splits} splits of {len(logits)} images; --splits {len(logits)} at most."
                )
            scores[f"{name}_mean"], scores[f"{name}_std"] = inception_score(logits, splits)
        if len(sample.fake.logits) == len(sample.real.logits):  # fewer images a split score lower
            share = scores["inception_score_mean"] / scores["real_inception_score_mean"]
            scores["inception_score_share_of_real"] = share
        return scores

    def lines(self, scores: Mapping[str, Any]) -> list[str]:
        share = scores.get("inception_score_share_of_real")
        ratio = "(of another number of images: no share)" if share is None else f"share {share:.0%}"
        mine, real = (
            f"{scores[f'{name}_mean']:.2f} ± {scores[f'{name}_std']:.2f}"
            for name in ("inception_score", "real_inception_score")
        )
        return [line("Inception Score", f"{mine}   real images {real}   {ratio}")]

"""Inception Score."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from stackflower.evaluation.extractors.base import Extracted
from stackflower.evaluation.intervals import compute_interval_around
from stackflower.evaluation.metrics.base import Metric, MetricInputs, build_unavailable_error, format_line
from stackflower.evaluation.statistics import Statistics
from stackflower.registry import register


def inception_score(logits: Tensor, splits: int = 10) -> tuple[float, float]:
    """Compute the Inception Score (Salimans et al. 2016): exp E_x KL(p(y|x) ‖ p(y)) within each split.

    Args:
        logits: logits `(N, K)`, in the order in which they are split.
        splits: number of splits, whose sizes differ by at most one; no image is dropped.

    Returns:
        Mean and population standard deviation over the splits.

    Raises:
        ValueError: fewer images than splits, or no splits.
    """
    if not 1 <= splits <= len(logits):
        raise ValueError(f"{splits} splits of {len(logits)} images: allowed are 1 to {len(logits)}.")
    return summarise_splits(Statistics.of(Extracted.of(logits[:, :0], logits), splits))


def summarise_splits(statistics: Statistics) -> tuple[float, float]:
    """Return the mean and the population standard deviation of the Inception Score over the splits."""
    assert statistics.classes is not None
    scores = statistics.classes.compute_scores()
    return float(scores.mean()), float(scores.std(unbiased=False))


def compute_influence(logits: Tensor, marginal: Tensor) -> Tensor:
    """Compute what each image adds to the logarithm of the Inception Score, to first order: KL(p(y|x) ‖ p(y)).

    Args:
        logits: logits `(N, K)`.
        marginal: p(y) `(K,)`.

    Returns:
        Influence `(N,)`.
    """
    log = logits.double().log_softmax(1)
    return (log.exp() * (log - marginal.clamp_min(1e-300).log())).sum(1)


@register("metric", "is")
class InceptionScore(Metric):
    """Inception Score (Salimans et al. 2016) of generated and of real images, and the ratio of the two."""

    position = 0
    measure = "inception_score_mean"

    def compute(self, inputs: MetricInputs) -> dict[str, Any]:
        scores: dict[str, Any] = {}
        for name, side in (("inception_score", inputs.fake), ("real_inception_score", inputs.real)):
            if side.classes is None:
                raise build_unavailable_error(
                    "The Inception Score",
                    "this extractor has no classes; use `extractor=domain` or `extractor=inception-v3`.",
                )
            if not bool(side.classes.count.all()):
                most_splits = side.count if side.count < side.splits else side.splits // 2
                raise build_unavailable_error(
                    "The Inception Score",
                    f"{side.splits} splits of {side.count} images leave one empty; use at most `splits={most_splits}`.",
                )
            scores[f"{name}_mean"], scores[f"{name}_std"] = summarise_splits(side)
        assert inputs.fake.classes is not None
        marginal = inputs.fake.classes.probability.sum(0) / inputs.fake.count
        mean = scores["inception_score_mean"]
        log_interval = compute_interval_around(
            math.log(mean), compute_influence(inputs.fake.rows.logits, marginal), inputs.fake.count
        )
        scores["inception_score_mean_interval"] = log_interval and [math.exp(bound) for bound in log_interval]
        split_size, classes = inputs.fake.count // inputs.fake.splits, inputs.fake.classes.probability.shape[1]
        if split_size < classes:
            scores["inception_score_note"] = f"biased downwards: {split_size:,} images per split, {classes:,} classes"
        if inputs.fake.count == inputs.real.count:  # smaller splits score lower
            scores["inception_score_share_of_real"] = mean / scores["real_inception_score_mean"]
        return scores

    def lines(self, scores: Mapping[str, Any]) -> list[str]:
        share = scores.get("inception_score_share_of_real")
        ratio = "(a different number of images: no share)" if share is None else f"share {share:.0%}"
        generated, real = (
            f"{scores[f'{name}_mean']:.2f} ± {scores[f'{name}_std']:.2f}"
            for name in ("inception_score", "real_inception_score")
        )
        note = scores.get("inception_score_note")
        text = f"{generated}   real images {real}   {ratio}" + (f"   ({note})" if note else "")
        return [format_line("Inception Score", text, scores["inception_score_mean_interval"])]

"""Cosine distance of logits between a generated image and the real image that its caption describes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from stackflower.evaluation.intervals import compute_interval
from stackflower.evaluation.metrics.base import Metric, MetricInputs, build_unavailable_error, format_line
from stackflower.registry import register


def cosine_distance(x: Tensor, y: Tensor) -> Tensor:
    """Compute 1 − cos `(N,)` of each row of `x` `(N, K)` and the same row of `y` `(N, K)`, in float64."""
    return 1 - F.cosine_similarity(x.double(), y.double(), dim=1)


def _match_pairs(inputs: MetricInputs) -> tuple[Tensor, Tensor]:
    """Find the generated images whose outputs are kept and whose real image's outputs are kept too.

    Returns:
        Rows `(n,)` of the generated images, and rows `(n,)` of their real images.

    Raises:
        DataError: no such images.
    """
    fake, real = inputs.fake.rows.logits, inputs.real.rows.logits
    if not fake.shape[1]:
        raise build_unavailable_error("The cosine distance", "this extractor has no classes.")
    if inputs.pairs is None:
        raise build_unavailable_error(
            "The cosine distance", "the captions of these images do not belong to real images of the split."
        )
    row_of = {image: row for row, image in enumerate(inputs.chosen[: len(real)])}
    if len(row_of) < 2:
        raise build_unavailable_error("The cosine distance", "it needs at least 2 real images, and this split has 1.")
    matches = [(row, row_of[image]) for row, (image, _) in enumerate(inputs.pairs[: len(fake)]) if image in row_of]
    if not matches:
        raise build_unavailable_error(
            "The cosine distance", "none of the real images that the captions describe is among those compared with."
        )
    rows, real_rows = torch.tensor(matches).T
    return rows, real_rows


def compute_pair_distances(inputs: MetricInputs) -> tuple[Tensor, Tensor]:
    """Return rows `(n,)` of generated images, and their distances `(n,)` from the real images of their captions."""
    rows, real_rows = _match_pairs(inputs)
    return rows, cosine_distance(inputs.fake.rows.logits[rows], inputs.real.rows.logits[real_rows])


@register("metric", "cosine")
class LogitDistance(Metric):
    """Cosine distance of a classifier's logits between each generated image and the real image of its caption.

    This is the score of the reverse image caption competition. The distance to another real image, reported next to it,
    is the score of a run that ignores captions.
    """

    needs_captions = True
    position = 6
    measure, lower_is_better = "cosine_distance", True

    def compute(self, inputs: MetricInputs) -> dict[str, Any]:
        rows, distances = compute_pair_distances(inputs)
        fake, real = inputs.fake.rows.logits, inputs.real.rows.logits
        real_rows = _match_pairs(inputs)[1]
        return {
            "cosine_distance": float(distances.mean()),
            "cosine_distance_interval": compute_interval(distances),
            "cosine_distance_to_another": float(cosine_distance(fake[rows], real[(real_rows + 1) % len(real)]).mean()),
        }

    def lines(self, scores: Mapping[str, Any]) -> list[str]:
        text = f"{scores['cosine_distance']:.3f}   to another real image {scores['cosine_distance_to_another']:.3f}"
        return [format_line("cosine distance", text, scores["cosine_distance_interval"])]

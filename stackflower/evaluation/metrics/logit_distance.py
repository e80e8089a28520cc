"""Cosine distance of logits between a generated image and the real one that its caption describes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from stackflower.evaluation.intervals import interval
from stackflower.evaluation.metrics.base import Metric, MetricInputs, line, unavailable_error
from stackflower.registry import register


def cosine_distance(one: Tensor, other: Tensor) -> Tensor:
    """(N,) 1 − cos of the rows of (N, K) and (N, K), in float64."""
    return 1 - F.cosine_similarity(one.double(), other.double(), dim=1)


def _match_pairs(inputs: MetricInputs) -> tuple[Tensor, Tensor]:
    """Find the kept generated images whose real image is kept too.

    Returns:
        Numbers `(n,)` of the generated images, and `(n,)` of the real ones.

    Raises:
        DataError: no such images.
    """
    fake, real = inputs.fake.rows.logits, inputs.real.rows.logits
    if not fake.shape[1]:
        raise unavailable_error("The cosine distance", "this extractor has no classes.")
    if inputs.pairs is None:
        raise unavailable_error("The cosine distance", "these images' captions are of no real images of the split.")
    place = {image: row for row, image in enumerate(inputs.chosen[: len(real)])}
    if len(place) < 2:
        raise unavailable_error("The cosine distance", "there is one real image, and so no other to compare with.")
    kept = [(row, place[image]) for row, (image, _) in enumerate(inputs.pairs[: len(fake)]) if image in place]
    if not kept:
        raise unavailable_error(
            "The cosine distance", "none of the images has its real one among those it is compared with."
        )
    rows, own = torch.tensor(kept).T
    return rows, own


def compute_pair_distances(inputs: MetricInputs) -> tuple[Tensor, Tensor]:
    """(n,) numbers of generated images, and (n,) the distance of each from the real image of its caption."""
    rows, own = _match_pairs(inputs)
    return rows, cosine_distance(inputs.fake.rows.logits[rows], inputs.real.rows.logits[own])


@register("metric", "cosine")
class LogitDistance(Metric):
    """Cosine distance of a classifier's logits between each generated image and the real image of its caption.

    This is the score of the reverse image caption competition. The distance to another real image, reported next to it,
    is what a run that ignores captions gets.
    """

    needs_captions = True
    position = 6
    measure, lower_is_better = "cosine_distance", True

    def compute(self, inputs: MetricInputs) -> dict[str, Any]:
        rows, found = compute_pair_distances(inputs)
        fake, real = inputs.fake.rows.logits, inputs.real.rows.logits
        own = _match_pairs(inputs)[1]
        return {
            "cosine_distance": float(found.mean()),
            "cosine_distance_interval": interval(found),
            "cosine_distance_to_another": float(cosine_distance(fake[rows], real[(own + 1) % len(real)]).mean()),
        }

    def lines(self, scores: Mapping[str, Any]) -> list[str]:
        text = f"{scores['cosine_distance']:.3f}   to another real image {scores['cosine_distance_to_another']:.3f}"
        return [line("cosine distance", text, scores["cosine_distance_interval"])]

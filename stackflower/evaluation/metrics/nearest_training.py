"""Memorisation: the nearest training image of each generated image."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F

from stackflower.evaluation.intervals import compute_interval
from stackflower.evaluation.metrics.base import Metric, MetricInputs, build_unavailable_error, format_line
from stackflower.evaluation.nearest import find_nearest
from stackflower.registry import register


@register("metric", "nearest")
class NearestTraining(Metric):
    """Share of generated images that are nearer to a training image than 99% of training images are to one another.

    Distances are between the extractor's features of unit length. The share of the split's real images is reported next
    to it.
    """

    by_default = False  # it extracts the features of the training split
    position = 10
    measure, lower_is_better = "copies", True

    def compute(self, inputs: MetricInputs) -> dict[str, Any]:
        training = inputs.training()
        if training is None:
            raise build_unavailable_error(
                "The share of copies", "the reference split is the training split; choose another `split`."
            )
        if training.count < 2:
            raise build_unavailable_error(
                "The share of copies", "it needs at least 2 training images, and this data has 1."
            )
        points = F.normalize(training.rows.features, dim=1)[None]
        nearest = find_nearest(F.normalize(inputs.fake.rows.features, dim=1), points)
        real_nearest = find_nearest(F.normalize(inputs.real.rows.features, dim=1), points)
        copies = nearest.copies.double()
        return {
            "copies": float(copies.mean()),
            "copies_interval": compute_interval(copies),
            "real_copies": float(real_nearest.copies.double().mean()),
            "nearest_distance_median": float(nearest.distance.double().median()),
            "real_nearest_distance_median": float(real_nearest.distance.double().median()),
            "copies_limit": nearest.limit,
            "training_images": len(points[0]),
        }

    def lines(self, scores: Mapping[str, Any]) -> list[str]:
        text = (
            f"{scores['copies']:.3f}   real images {scores['real_copies']:.3f}   "
            f"median distance to the nearest training image {scores['nearest_distance_median']:.3f}, "
            f"real images {scores['real_nearest_distance_median']:.3f}"
        )
        return [format_line("copies", text, scores["copies_interval"])]

"""The nearest training image of each generated one: memorisation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F

from stackflower.evaluation.intervals import interval
from stackflower.evaluation.metrics.base import Metric, MetricInputs, line, unavailable_error
from stackflower.evaluation.nearest import find_nearest
from stackflower.registry import register


@register("metric", "nearest")
class NearestTraining(Metric):
    """Share of generated images that are nearer to a training image than 99% of training images are to one another.

    Distances are between the extractor's features of unit length. The share of the split's real images is reported next
    to it.
    """

    by_default = False  # it looks at the whole training split
    position = 10
    measure, lower_is_better = "copies", True

    def compute(self, inputs: MetricInputs) -> dict[str, Any]:
        training = inputs.training()
        if training is None:
            raise unavailable_error(
                "Nearness to the training images", "the split that is compared with is the training split."
            )
        if training.count < 2:
            raise unavailable_error("Nearness to the training images", "there is one of them.")
        points = F.normalize(training.rows.features, dim=1)[None]
        found = find_nearest(F.normalize(inputs.fake.rows.features, dim=1), points)
        real = find_nearest(F.normalize(inputs.real.rows.features, dim=1), points)
        copies = found.copies.double()
        return {
            "copies": float(copies.mean()),
            "copies_interval": interval(copies),
            "real_copies": float(real.copies.double().mean()),
            "nearest_distance_median": float(found.distance.double().median()),
            "real_nearest_distance_median": float(real.distance.double().median()),
            "copies_limit": found.limit,
            "training_images": len(points[0]),
        }

    def lines(self, scores: Mapping[str, Any]) -> list[str]:
        text = (
            f"{scores['copies']:.3f}   real images {scores['real_copies']:.3f}   median distance to the nearest "
            "training image "
            f"{scores['nearest_distance_median']:.3f}, real images {scores['real_nearest_distance_median']:.3f}"
        )
        return [line("copies", text, scores["copies_interval"])]

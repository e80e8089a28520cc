"""Precision and recall, density and coverage."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from stackflower.evaluation.intervals import compute_interval
from stackflower.evaluation.metrics.base import Metric, MetricInputs, build_unavailable_error, format_line
from stackflower.registry import register

NEIGHBOURS = 5
SMALL_SAMPLE = 500  # below this number of images, the balls are too wide to be informative
CHUNK = 1024  # rows of a table of distances; bounds the memory


def compute_radii(features: Tensor, neighbours: int = NEIGHBOURS) -> Tensor:
    """Compute the distance `(N,)` of each row of features `(N, F)` to its `neighbours`-th nearest neighbour."""
    radii = [torch.cdist(part, features).kthvalue(neighbours + 1, 1).values for part in features.split(CHUNK)]
    return torch.cat(radii)


def precision_recall(real: Tensor, fake: Tensor, neighbours: int = NEIGHBOURS) -> dict[str, float]:
    """Compute precision, recall, density and coverage.

    See Kynkäänniemi et al. (2019), eq. 1 and 2, and Naeem et al. (2020), eq. 4 and 5.

    Each image has a ball, which reaches to its `neighbours`-th nearest neighbour on the same side.

    - precision: share of generated images within the ball of any real one;
    - recall: share of real images within the ball of any generated one;
    - density: number of real balls that contain a generated image, over `neighbours`; 1 for real images;
    - coverage: share of real images with a generated one in their ball.

    Args:
        real: features `(N, F)`, more than `neighbours` rows.
        fake: features `(M, F)`, more than `neighbours` rows.
        neighbours: which neighbour a ball reaches to.

    Raises:
        ValueError: too few rows.
    """
    return {name: float(values.mean()) for name, values in compute_per_image(real, fake, neighbours).items()}


def compute_per_image(real: Tensor, fake: Tensor, neighbours: int = NEIGHBOURS) -> dict[str, Tensor]:
    """Compute the values that `precision_recall` averages, in float64.

    Precision and density have one value per generated image, recall and coverage one per real image.
    """
    if min(len(real), len(fake)) <= neighbours:
        raise ValueError(
            f"{len(real)} real and {len(fake)} generated images are too few; each side needs more than {neighbours}."
        )
    real, fake = real.double(), fake.double()
    real_radius, fake_radius = compute_radii(real, neighbours), compute_radii(fake, neighbours)
    ball_count = torch.zeros(len(fake), dtype=torch.float64)  # number of real balls that contain a generated image
    recalled, covered = [], []
    for part, radius in zip(real.split(CHUNK), real_radius.split(CHUNK), strict=True):
        distance = torch.cdist(part, fake)
        ball_count += (distance < radius[:, None]).sum(0)
        recalled.append((distance < fake_radius).any(1).double())
        covered.append((distance.amin(1) < radius).double())
    return {
        "precision": (ball_count > 0).double(),
        "recall": torch.cat(recalled),
        "density": ball_count / neighbours,
        "coverage": torch.cat(covered),
    }


@register("metric", "prdc")
class PrecisionRecall(Metric):
    """Precision, recall (Kynkäänniemi et al. 2019), density and coverage (Naeem et al. 2020), over five neighbours."""

    position = 3
    measure = "coverage"
    limits: ClassVar[dict[str, str]] = {name: name for name in ("precision", "recall", "density", "coverage")}

    def compute(self, inputs: MetricInputs) -> dict[str, Any]:
        real, fake = inputs.real.rows.features, inputs.fake.rows.features
        try:
            values_by_name = compute_per_image(real, fake)
        except ValueError as error:
            raise build_unavailable_error("Precision and recall", str(error)) from error
        scores: dict[str, Any] = {"precision_recall_images": [len(fake), len(real)]}
        for name, values in values_by_name.items():
            scores[name], scores[f"{name}_interval"] = float(values.mean()), compute_interval(values)
        if min(len(real), len(fake)) < SMALL_SAMPLE:
            scores["precision_recall_note"] = f"imprecise: fewer than {SMALL_SAMPLE:,} images on a side"
        return scores

    def lines(self, scores: Mapping[str, Any]) -> list[str]:
        note = scores.get("precision_recall_note")
        names = ("precision", "recall", "density", "coverage")
        lines = [format_line(name, f"{scores[name]:.3f}", scores[f"{name}_interval"]) for name in names]
        return [*lines, format_line("", f"({note})")] if note else lines

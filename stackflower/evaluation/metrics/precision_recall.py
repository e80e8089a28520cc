"""Precision and recall, density and coverage."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from stackflower.evaluation.metrics.base import Metric, Sample, line, unavailable
from stackflower.registry import register

NEIGHBOURS = 5
CHUNK = 1024  # rows of a table of distances, so that memory does not grow with the square of the number of images


def radii(features: Tensor, neighbours: int = NEIGHBOURS) -> Tensor:
    """(N,) distance of each row of (N, F) to the nearest but `neighbours` − 1 of the others."""
    found = [torch.cdist(part, features).kthvalue(neighbours + 1, 1).values for part in features.split(CHUNK)]
    return torch.cat(found)


def precision_recall(real: Tensor, fake: Tensor, neighbours: int = NEIGHBOURS) -> dict[str, float]:
    """Precision and recall (Kynkäänniemi et al. 2019, equations 1 and 2), density and coverage (Naeem et al. 2020, equations 4 and 5).

    Each image has a ball that reaches to its `neighbours`-th nearest of the same side.

    - precision: share of generated images within the ball of any real one;
    - recall: share of real images within the ball of any generated one;
    - density: real balls that a generated image lies in, over `neighbours`; 1 for real images in place of generated ones;
    - coverage: share of real images with a generated one in their ball.

    Args:
        real, fake: features (N, F) and (M, F), more than `neighbours` rows each.
    """
    if min(len(real), len(fake)) <= neighbours:
        raise ValueError(f"{len(real)} and {len(fake)} images: wanted are more than {neighbours} on each side.")
    real, fake = real.double(), fake.double()
    real_radius, fake_radius = radii(real, neighbours), radii(fake, neighbours)
    inside = torch.zeros(len(fake), dtype=torch.int64)  # how many real balls hold a generated image
    recalled = covered = 0
    for part, radius in zip(real.split(CHUNK), real_radius.split(CHUNK), strict=True):
        distance = torch.cdist(part, fake)
        inside += (distance < radius[:, None]).sum(0)
        recalled += int((distance < fake_radius).any(1).sum())
        covered += int((distance.amin(1) < radius).sum())
    return {
        "precision": float((inside > 0).double().mean()),
        "recall": recalled / len(real),
        "density": float(inside.double().mean()) / neighbours,
        "coverage": covered / len(real),
    }


@register("metric", "prdc")
class PrecisionRecall(Metric):
    """Precision and recall (Kynkäänniemi et al. 2019), density and coverage (Naeem et al. 2020), over five neighbours."""

    position = 3
    measure = "coverage"

    def compute(self, sample: Sample) -> dict[str, Any]:
        try:
            return precision_recall(sample.real.features, sample.fake.features)
        except ValueError as error:
            raise unavailable("Precision and recall", str(error)) from error

    def lines(self, scores: Mapping[str, Any]) -> list[str]:
        return [
            line("precision, recall", f"{scores['precision']:.3f}, {scores['recall']:.3f}"),
            line("density, coverage", f"{scores['density']:.3f}, {scores['coverage']:.3f}"),
        ]

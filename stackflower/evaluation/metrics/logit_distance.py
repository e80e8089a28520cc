"""Cosine distance of logits between a generated image and the real one that its caption describes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from stackflower.evaluation.metrics.base import Metric, Sample, line, unavailable
from stackflower.registry import register


def cosine_distance(one: Tensor, other: Tensor) -> float:
    """Mean of 1 − cos over the rows of (N, K) and (N, K)."""
    return float((1 - F.cosine_similarity(one.double(), other.double(), dim=1)).mean())


@register("metric", "cosine")
class LogitDistance(Metric):
    """Cosine distance of the classifier's logits between each generated image and the real image whose caption it was generated for, as in
    the competition of the reverse image caption; beside it, that to another real image, which a run that ignores captions has.
    """

    needs_captions = True
    position = 6
    measure, lower_is_better = "cosine_distance", True

    def compute(self, sample: Sample) -> dict[str, Any]:
        assert sample.captions is not None
        if not sample.fake.logits.shape[1]:
            raise unavailable("The cosine distance", "this extractor has no classes.")
        numbers = [image for image, _ in sample.captions]
        place = {image: row for row, image in enumerate(dict.fromkeys(numbers))}  # the order of the real images
        own = torch.tensor([place[image] for image in numbers])
        if len(place) < 2:
            raise unavailable("The cosine distance", "there is one real image, and so no other to compare with.")
        other = (own + 1) % len(place)
        fake, real = sample.fake.logits, sample.real.logits
        return {
            "cosine_distance": cosine_distance(fake, real[own]),
            "cosine_distance_to_another": cosine_distance(fake, real[other]),
        }

    def lines(self, scores: Mapping[str, Any]) -> list[str]:
        another = scores["cosine_distance_to_another"]
        return [line("cosine distance", f"{scores['cosine_distance']:.3f}   to another real image {another:.3f}")]

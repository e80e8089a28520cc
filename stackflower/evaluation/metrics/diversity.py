"""Diversity of the images of one caption."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from stackflower.evaluation.intervals import interval
from stackflower.evaluation.metrics.base import Metric, MetricInputs, line, unavailable_error
from stackflower.registry import register

CAPTIONS, LATENTS = 48, 16


def group_variances(features: Tensor, groups: Tensor) -> Tensor:
    """(G,) the variance of features within each group of two or more, summed over dimensions, in float64.

    Args:
        features: (N, F).
        groups: (N,) int64, such as the index of the caption; groups of one row are ignored.
    """
    features = features.double()
    _, index, sizes = groups.unique(return_inverse=True, return_counts=True)
    sums = torch.zeros(len(sizes), features.shape[1], dtype=torch.float64).index_add_(0, index, features)
    centred = features - (sums / sizes[:, None])[index]
    squares = torch.zeros(len(sizes), dtype=torch.float64).index_add_(0, index, centred.square().sum(1))
    several = sizes > 1
    if not several.any():
        raise ValueError("No group has two members, so there is no variance within groups.")
    return squares[several] / (sizes[several] - 1)


def within_group_variance(features: Tensor, groups: Tensor) -> float:
    """Compute the mean of `group_variances`."""
    return float(group_variances(features, groups).mean())


@register("metric", "diversity")
class Diversity(Metric):
    """Variance of features over latents within a caption, divided by that of real images of the caption or class."""

    needs_captions = needs_run = True
    limits: ClassVar[dict[str, str]] = {"diversity": "diversity_within_caption: value"}
    position = 5

    def compute(self, inputs: MetricInputs) -> dict[str, Any]:
        reference, seed = inputs.reference, inputs.protocol.seed
        if reference.data.labels is None:
            raise unavailable_error(
                "Diversity", "it compares with real images of the same class, and this data has no labels."
            )
        assert inputs.generate is not None, "of runs only"
        images, numbers = reference.choose(CAPTIONS, seed + 1)
        selection = list(zip(images, numbers, strict=True))
        captions = [reference.data.captions[image][number] for image, number in selection]
        fake = inputs.generate(captions, LATENTS, seed + 1)
        groups = torch.arange(len(captions)).repeat_interleave(LATENTS)
        similar, real_groups, against = reference.find_similar(selection, LATENTS, seed)
        try:
            variances = group_variances(fake.features, groups)
            real_variance = within_group_variance(inputs.extract(similar).features, real_groups)
        except ValueError as error:
            raise unavailable_error("Diversity", f"no two real images share a class or caption ({error})") from error
        if not real_variance:
            raise unavailable_error("Diversity", f"the {against} are all the same to this extractor.")
        return {
            "diversity_within_caption": {
                "value": float(variances.mean()) / real_variance,
                "interval": interval(variances / real_variance),
                "generated_variance": float(variances.mean()),
                "real_variance": real_variance,
                "against": against,
                "captions": len(captions),
                "latents": LATENTS,
            }
        }

    def lines(self, scores: Mapping[str, Any]) -> list[str]:
        found = scores["diversity_within_caption"]
        return [line("diversity", f"{found['value']:.2f}   of {found['against']}", found["interval"])]

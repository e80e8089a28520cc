"""Diversity of the images generated for one caption."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from stackflower.evaluation.intervals import compute_interval
from stackflower.evaluation.metrics.base import Metric, MetricInputs, build_unavailable_error, format_line
from stackflower.registry import register

CAPTION_COUNT, LATENTS_PER_CAPTION = 48, 16


def compute_group_variances(features: Tensor, groups: Tensor) -> Tensor:
    """Compute the variance of features within each group of at least two rows, summed over dimensions.

    Args:
        features: features `(N, F)`.
        groups: number of each row's group, int64 `(N,)`; groups of one row are ignored.

    Returns:
        Variances `(G,)`, in float64.

    Raises:
        ValueError: no group has two rows.
    """
    features = features.double()
    _, index, sizes = groups.unique(return_inverse=True, return_counts=True)
    sums = torch.zeros(len(sizes), features.shape[1], dtype=torch.float64).index_add_(0, index, features)
    centred = features - (sums / sizes[:, None])[index]
    squares = torch.zeros(len(sizes), dtype=torch.float64).index_add_(0, index, centred.square().sum(1))
    several = sizes > 1
    if not several.any():
        raise ValueError("No group has two members.")
    return squares[several] / (sizes[several] - 1)


def compute_within_group_variance(features: Tensor, groups: Tensor) -> float:
    """Compute the mean of `compute_group_variances`."""
    return float(compute_group_variances(features, groups).mean())


@register("metric", "diversity")
class Diversity(Metric):
    """Variance of features over latents within a caption, relative to that of real images of the caption or class."""

    needs_captions = needs_run = True
    limits: ClassVar[dict[str, str]] = {"diversity": "diversity_within_caption: value"}
    position = 5

    def compute(self, inputs: MetricInputs) -> dict[str, Any]:
        reference, seed = inputs.reference, inputs.protocol.seed
        if reference.data.labels is None:
            raise build_unavailable_error(
                "Diversity", "it compares with real images of the same class, and this data has no labels."
            )
        assert inputs.generate is not None, "ensured by `needs_run`"
        images, numbers = reference.choose(CAPTION_COUNT, seed + 1)
        selection = list(zip(images, numbers, strict=True))
        captions = [reference.data.captions[image][number] for image, number in selection]
        fake = inputs.generate(captions, LATENTS_PER_CAPTION, seed + 1)
        groups = torch.arange(len(captions)).repeat_interleave(LATENTS_PER_CAPTION)
        similar, real_groups, against = reference.find_similar(selection, LATENTS_PER_CAPTION, seed)
        try:
            variances = compute_group_variances(fake.features, groups)
            real_variance = compute_within_group_variance(inputs.extract(similar).features, real_groups)
        except ValueError as error:
            raise build_unavailable_error("Diversity", "no two real images share a class or caption.") from error
        if not real_variance:
            raise build_unavailable_error("Diversity", f"{against} all have the same features.")
        return {
            "diversity_within_caption": {
                "value": float(variances.mean()) / real_variance,
                "interval": compute_interval(variances / real_variance),
                "generated_variance": float(variances.mean()),
                "real_variance": real_variance,
                "against": against,
                "captions": len(captions),
                "latents": LATENTS_PER_CAPTION,
            }
        }

    def lines(self, scores: Mapping[str, Any]) -> list[str]:
        diversity = scores["diversity_within_caption"]
        return [
            format_line("diversity", f"{diversity['value']:.2f}   of {diversity['against']}", diversity["interval"])
        ]

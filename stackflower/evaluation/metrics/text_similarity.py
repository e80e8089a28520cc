"""Similarity of images and captions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stackflower.evaluation.intervals import compute_interval
from stackflower.evaluation.metrics.base import Metric, MetricInputs, format_line
from stackflower.registry import register


@register("metric", "similarity")
class TextSimilarity(Metric):
    """Mean cosine of each image and its caption in the extractor's common space.

    With CLIP it is CLIPScore without its factor (Hessel et al. 2021, eq. 1). The same mean for the captions of other
    images, and for real images, is reported next to it.
    """

    needs_captions = True
    position = 8
    measure = "text_similarity"

    def compute(self, inputs: MetricInputs) -> dict[str, Any]:
        generated, real = inputs.match_captions("Text similarity")
        similarity = (generated.images.double() * generated.texts.double()).sum(1)
        similarity_to_another = (generated.images.double() * generated.texts.double().roll(1, 0)).sum(1)
        scores: dict[str, Any] = {
            "text_similarity": float(similarity.mean()),
            "text_similarity_interval": compute_interval(similarity),
            "text_similarity_to_another": float(similarity_to_another.mean()),
        }
        if real is not None:
            scores["real_text_similarity"] = float((real.images.double() * real.texts.double()).sum(1).mean())
        return scores

    def lines(self, scores: Mapping[str, Any]) -> list[str]:
        real = scores.get("real_text_similarity")
        real_text = "" if real is None else f"   real images {real:.3f}"
        text = (
            f"{scores['text_similarity']:.3f}   another caption {scores['text_similarity_to_another']:.3f}{real_text}"
        )
        return [format_line("text similarity", text, scores["text_similarity_interval"])]

"""Caption accuracy: how often a classifier finds the attributes that a caption mentions in its image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from stackflower.evaluation.intervals import compute_interval
from stackflower.evaluation.metrics.base import Metric, MetricInputs, build_unavailable_error, format_line
from stackflower.registry import register


def compute_hits(logits: Tensor, target: Tensor, mentioned: Tensor) -> Tensor:
    """Compare predictions with targets where `mentioned` `(N,)` is true.

    Args:
        logits: `(N, K)`.
        target: class `(N,)`.
        mentioned: which rows count, `(N,)`.

    Returns:
        1 for a hit and 0 for a miss, float64 `(n,)`.
    """
    return (logits.argmax(1) == target)[mentioned].double()


def caption_accuracy(
    heads: Mapping[str, Tensor],
    attributes: Mapping[str, tuple[str, ...]],
    mentioned: Sequence[Mapping[str, str]],
) -> dict[str, Any]:
    """Compute the accuracy of each attribute over the captions that mention it, and of all attributes together.

    Args:
        heads: attribute → logits `(N, values)` of the generated images.
        attributes: attribute → its values, in the order of the logits.
        mentioned: for each image, the attributes that its caption mentions, attribute → value.

    Returns:
        For each attribute, its accuracy, its interval and ``ATTRIBUTE_captions``, the number of captions that mention
        it; ``all_mentioned``, the share of images that show all mentioned attributes, and its interval.
    """
    scores: dict[str, Any] = {}
    count = len(mentioned)
    all_correct, any_mentioned = torch.ones(count, dtype=torch.bool), torch.zeros(count, dtype=torch.bool)
    for name, values in attributes.items():
        index = {value: number for number, value in enumerate(values)}
        target = torch.tensor([index.get(attribute_values.get(name, ""), -1) for attribute_values in mentioned])
        mentions = target >= 0
        if mentions.any():
            hits = compute_hits(heads[name], target, mentions)
            scores[name], scores[f"{name}_interval"] = float(hits.mean()), compute_interval(hits)
            scores[f"{name}_captions"] = int(mentions.sum())
            any_mentioned |= mentions
            all_correct &= ~mentions | (heads[name].argmax(1) == target)
    if any_mentioned.any():
        hits = all_correct[any_mentioned].double()
        scores["all_mentioned"], scores["all_mentioned_interval"] = float(hits.mean()), compute_interval(hits)
    return scores


@register("metric", "captions")
class CaptionAccuracy(Metric):
    """For the captions that mention an attribute, the share of images that show it, according to a classifier."""

    needs_captions = needs_attributes = True
    limits: ClassVar[dict[str, str]] = {"captions": "caption_accuracy: all_mentioned"}
    position = 4

    def compute(self, inputs: MetricInputs) -> dict[str, Any]:
        if not inputs.attributes:
            raise build_unavailable_error(
                "Caption accuracy",
                "it needs data with attributes, and a classifier trained on them (`extractor=domain`).",
            )
        if inputs.pairs is None:
            raise build_unavailable_error(
                "Caption accuracy", "the captions of these images do not belong to real images of the split."
            )
        heads = inputs.fake.rows.heads
        pairs = inputs.pairs[: len(inputs.fake.rows.features)]
        mentioned = [inputs.reference.find_mentioned_attributes(image, caption) for image, caption in pairs]
        return {"caption_accuracy": caption_accuracy(heads, inputs.attributes, mentioned)}

    def lines(self, scores: Mapping[str, Any]) -> list[str]:
        accuracy, lines = scores["caption_accuracy"], []
        for name, value in accuracy.items():
            if not name.endswith(("_captions", "_interval")):
                count = accuracy.get(f"{name}_captions")
                text = f"{value:.3f}   {name}" + (f" ({count:,} captions)" if count else "")
                lines.append(format_line("caption accuracy", text, accuracy[f"{name}_interval"]))
        return lines

"""R-precision: whether an image is closer to its own caption than to other captions."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from stackflower.evaluation.intervals import compute_interval
from stackflower.evaluation.metrics.base import Metric, MetricInputs, build_unavailable_error, format_line
from stackflower.registry import register

CANDIDATES = 100  # captions per image, its own included, as in AttnGAN (Xu et al. 2018)
CHUNK = 512  # images compared at a time


def r_precision(images: Tensor, texts: Tensor, captions: Sequence[Hashable], candidates: int = CANDIDATES) -> Tensor:
    """Compute the probability that an image's own caption is its nearest among random captions (Xu et al. 2018).

    The expectation over all draws of the other captions is computed in closed form.

    Args:
        images: vectors `(N, D)` of unit length.
        texts: vectors `(N, D)` of unit length of the images' captions.
        captions: keys `(N,)` that identify equal captions, which count once.
        candidates: number of captions, the image's own included; fewer if the data have fewer.

    Returns:
        Probabilities `(N,)`, float64 in `[0, 1]`.
    """
    number_of: dict[Hashable, int] = {}
    numbers = torch.tensor([number_of.setdefault(caption, len(number_of)) for caption in captions])
    first = torch.full((len(number_of),), len(numbers)).scatter_reduce(0, numbers, torch.arange(len(numbers)), "amin")
    distinct_texts, probabilities = texts[first].double(), []
    others = len(distinct_texts) - 1
    drawn = torch.arange(min(candidates - 1, others), dtype=torch.float64)
    for rows in torch.arange(len(images)).split(CHUNK):
        similarity = images[rows].double() @ distinct_texts.T
        # number of other captions that are less similar than the image's own
        below = others - ((similarity >= similarity.gather(1, numbers[rows, None])).sum(1) - 1)
        # draws are without replacement: the k-th is less similar with probability (below − k) / (others − k)
        probabilities.append(((below[:, None] - drawn).clamp_min(0) / (others - drawn)).prod(1))
    return torch.cat(probabilities)


@register("metric", "r-precision")
class RPrecision(Metric):
    """R-precision (Xu et al. 2018): share of images whose own caption is the most similar of 100.

    Similarity is the cosine in the extractor's common space. The share of real images is reported next to it.
    """

    needs_captions = True
    position = 7
    measure = "r_precision"

    def compute(self, inputs: MetricInputs) -> dict[str, Any]:
        generated, real = inputs.match_captions("R-precision")
        if len(set(generated.captions)) < CANDIDATES:
            raise build_unavailable_error(
                "R-precision",
                f"it needs {CANDIDATES} distinct captions, and these images have {len(set(generated.captions))}.",
            )
        hits = r_precision(*generated)
        scores: dict[str, Any] = {"r_precision": float(hits.mean()), "r_precision_interval": compute_interval(hits)}
        if real is not None and len(set(real.captions)) >= CANDIDATES:
            scores["real_r_precision"] = float(r_precision(*real).mean())
        return scores | {"r_precision_among": CANDIDATES}

    def lines(self, scores: Mapping[str, Any]) -> list[str]:
        real = scores.get("real_r_precision")
        real_text = "" if real is None else f"   real images {real:.3f}"
        return [
            format_line(
                "R-precision",
                f"{scores['r_precision']:.3f}{real_text}   1 of {CANDIDATES}",
                scores["r_precision_interval"],
            )
        ]

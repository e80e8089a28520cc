"""R-precision: whether an image's own caption is found among others."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from stackflower.evaluation.intervals import interval
from stackflower.evaluation.metrics.base import Metric, MetricInputs, line, unavailable_error
from stackflower.registry import register

AMONG = 100  # captions, as in AttnGAN
CHUNK = 512


def r_precision(images: Tensor, texts: Tensor, captions: Sequence[Hashable], among: int = AMONG) -> Tensor:
    """Compute the probability that an image's own caption is its nearest among random captions (Xu et al. 2018).

    The expectation over all draws of the other captions is computed in closed form.

    Args:
        images: vectors `(N, D)` of unit length.
        texts: vectors `(N, D)` of unit length of the images' captions.
        captions: keys that tell captions apart; the other captions differ from the image's own.
        among: number of captions, the image's own included; fewer if the data have fewer.

    Returns:
        Probabilities `(N,)`, float64 in [0, 1].
    """
    known: dict[Hashable, int] = {}
    own = torch.tensor([known.setdefault(caption, len(known)) for caption in captions])
    first = torch.full((len(known),), len(own)).scatter_reduce(0, own, torch.arange(len(own)), "amin")
    different, found = texts[first].double(), []  # each caption once
    others = len(different) - 1
    drawn = torch.arange(min(among - 1, others), dtype=torch.float64)
    for rows in torch.arange(len(images)).split(CHUNK):
        similar = images[rows].double() @ different.T
        # number of others that are less similar
        below = others - ((similar >= similar.gather(1, own[rows, None])).sum(1) - 1)
        # without replacement: the k-th drawn is among the `below` − k of `others` − k left
        found.append(((below[:, None] - drawn).clamp_min(0) / (others - drawn)).prod(1))
    return torch.cat(found)


@register("metric", "r-precision")
class RPrecision(Metric):
    """R-precision (Xu et al. 2018): share of images whose own caption is the most similar of 100.

    Similarity is that of the extractor's common space. The share of real images is reported next to it.
    """

    needs_captions = True
    position = 7
    measure = "r_precision"

    def compute(self, inputs: MetricInputs) -> dict[str, Any]:
        generated, real = inputs.match_captions("R-precision")
        if len(set(generated.captions)) < AMONG:
            raise unavailable_error(
                "R-precision", f"it draws {AMONG} different captions, and there are {len(set(generated.captions))}."
            )
        hits = r_precision(*generated)
        scores: dict[str, Any] = {"r_precision": float(hits.mean()), "r_precision_interval": interval(hits)}
        if real is not None and len(set(real.captions)) >= AMONG:
            scores["real_r_precision"] = float(r_precision(*real).mean())
        return scores | {"r_precision_among": AMONG}

    def lines(self, scores: Mapping[str, Any]) -> list[str]:
        real = scores.get("real_r_precision")
        beside = "" if real is None else f"   real images {real:.3f}"
        return [
            line("R-precision", f"{scores['r_precision']:.3f}{beside}   1 of {AMONG}", scores["r_precision_interval"])
        ]

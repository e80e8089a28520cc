"""R-precision: whether an image's own caption is found among others."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from stackflower.evaluation.intervals import interval
from stackflower.evaluation.metrics.base import Metric, Sample, line, unavailable
from stackflower.registry import register
from stackflower.utils.rng import seeded

AMONG = 100  # captions, as in AttnGAN
CHUNK = 512


def r_precision(
    images: Tensor, texts: Tensor, captions: Sequence[Hashable], among: int = AMONG, seed: int = 0
) -> Tensor:
    """Whether each image's own caption is more similar to it than each of `among` − 1 other ones drawn at random (Xu et al. 2018, R 1).

    Args:
        images, texts: (N, D) of unit length, row by row.
        captions: what tells captions apart: others are drawn among different ones.
        among: how many captions; fewer where there are not so many different ones.

    Returns:
        (N,) float64, 1 where it is found and 0 where it is not.
    """
    known: dict[Hashable, int] = {}
    own = torch.tensor([known.setdefault(caption, len(known)) for caption in captions])
    first = torch.full((len(known),), len(own)).scatter_reduce(0, own, torch.arange(len(own)), "amin")
    different = texts[first].double()  # each caption once
    generator, found = seeded(seed, 8), []
    for rows in torch.arange(len(images)).split(CHUNK):
        similar = images[rows].double() @ different.T
        draw = torch.rand(len(rows), len(different), generator=generator)
        draw.scatter_(1, own[rows, None], -1.0)
        score, chosen = draw.topk(min(among - 1, len(different)), 1)
        others = similar.gather(1, chosen).masked_fill(score < 0, -torch.inf)
        found.append((similar.gather(1, own[rows, None])[:, 0] > others.amax(1)).double())
    return torch.cat(found)


@register("metric", "r-precision")
class RPrecision(Metric):
    """R-precision (Xu et al. 2018): the share of images whose own caption is the most similar of 100, by the extractor's common space of
    images and captions; beside it, that of the real images."""

    needs_captions = True
    position = 7
    measure = "r_precision"

    def compute(self, sample: Sample) -> dict[str, Any]:
        generated, real = sample.matched("R-precision")
        if len(set(generated.captions)) < AMONG:
            raise unavailable(
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

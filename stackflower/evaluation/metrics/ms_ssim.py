"""Multi-scale structural similarity of the images of one caption."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from stackflower.evaluation.intervals import interval
from stackflower.evaluation.metrics.base import Metric, Sample, line, unavailable
from stackflower.registry import register

WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # of the scales, fine to coarse
WINDOW, SIGMA, K1, K2, RANGE = 11, 1.5, 0.01, 0.03, 255.0
CAPTIONS, PAIRS = 100, 2  # captions, and images of each that make its pairs


def ms_ssim(one: Tensor, other: Tensor) -> Tensor:
    """(N,) multi-scale structural similarity (Wang et al. 2003, equation 7), in float64, the mean over channels.

    A Gaussian window of 11 pixels. Of the five scales, those at which an image is as large as the window, with weights that add up to 1.

    Args:
        one, other: images (N, C, H, W) in [0, 255], at least 11 pixels in height and width.
    """
    x, y = one.double(), other.double()
    smallest = min(x.shape[-2:])
    if smallest < WINDOW:
        raise ValueError(f"Images of {smallest} px: structural similarity needs {WINDOW}.")
    scales = sum(smallest >> scale >= WINDOW for scale in range(len(WEIGHTS)))
    weights = torch.tensor(WEIGHTS[:scales], dtype=torch.float64)
    terms = []
    for scale in range(scales):
        if scale:
            x, y = F.avg_pool2d(x, 2), F.avg_pool2d(y, 2)
        luminance, structure = _terms(x, y)
        terms.append((luminance * structure if scale == scales - 1 else structure).mean((2, 3)).clamp_min(0))
    return torch.stack(terms, 2).pow(weights / weights.sum()).prod(2).mean(1)


def _terms(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Luminance, and contrast times structure, at every position of the window."""
    line = torch.arange(WINDOW, dtype=torch.float64) - WINDOW // 2
    weight = torch.exp(-line.square() / (2 * SIGMA**2))
    weight = (weight / weight.sum()).to(x.device)
    channels = x.shape[1]

    def blur(values: Tensor) -> Tensor:
        rows = F.conv2d(values, weight.view(1, 1, -1, 1).expand(channels, 1, -1, 1), groups=channels)
        return F.conv2d(rows, weight.view(1, 1, 1, -1).expand(channels, 1, 1, -1), groups=channels)

    c1, c2 = (K1 * RANGE) ** 2, (K2 * RANGE) ** 2
    mean_x, mean_y = blur(x), blur(y)
    var_x, var_y = blur(x * x) - mean_x.square(), blur(y * y) - mean_y.square()
    covariance = blur(x * y) - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + c1) / (mean_x.square() + mean_y.square() + c1)
    return luminance, (2 * covariance + c2) / (var_x + var_y + c2)


@register("metric", "ms-ssim")
class StructuralSimilarity(Metric):
    """Multi-scale structural similarity of two images of one caption, over 100 captions (Odena et al. 2017, for classes): high where noise
    changes little. Beside it, that of real images of one class."""

    needs_captions = needs_run = True
    by_default = False  # diversity says the same, and of more than pixels
    position = 9
    measure, lower_is_better = "ms_ssim", True

    def compute(self, sample: Sample) -> dict[str, Any]:
        assert sample.images is not None, "of runs only"
        reference, seed = sample.reference, sample.protocol.seed
        images, numbers = reference.choose(CAPTIONS, seed + 2)
        picked = list(zip(images, numbers, strict=True))
        captions = [reference.data.captions[image][number] for image, number in picked]
        found = torch.cat(list(sample.images(captions, PAIRS, seed + 2)))
        try:
            similar = ms_ssim(found[::PAIRS], found[1::PAIRS])
        except ValueError as error:
            raise unavailable("MS-SSIM", str(error)) from error
        scores: dict[str, Any] = {"ms_ssim": float(similar.mean()), "ms_ssim_interval": interval(similar)}
        if reference.data.labels is not None:
            real, groups, against = reference.similar(picked, PAIRS, seed)
            pairs = [
                (rows[first], rows[first + 1])
                for rows in (torch.nonzero(groups == group).flatten().tolist() for group in groups.unique())
                for first in range(0, min(len(rows) - 1, PAIRS), PAIRS)
            ]
            if pairs:
                left, right = torch.tensor(pairs).T
                scores |= {"real_ms_ssim": float(ms_ssim(real[left], real[right]).mean()), "ms_ssim_against": against}
        return scores

    def lines(self, scores: Mapping[str, Any]) -> list[str]:
        real = scores.get("real_ms_ssim")
        beside = "" if real is None else f"   {scores['ms_ssim_against']} {real:.3f}"
        return [line("MS-SSIM", f"{scores['ms_ssim']:.3f}{beside}", scores["ms_ssim_interval"])]

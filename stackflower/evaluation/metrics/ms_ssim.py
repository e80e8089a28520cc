"""Multi-scale structural similarity of the images of one caption."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from scipy.ndimage import gaussian_filter
from torch import Tensor

from stackflower.evaluation.intervals import interval
from stackflower.evaluation.metrics.base import Metric, MetricInputs, line, unavailable_error
from stackflower.evaluation.reference import Reference
from stackflower.registry import register

SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # fine to coarse
WINDOW_RADIUS, WINDOW_SIGMA = 5, 1.5  # pixels
WINDOW_SIZE = 2 * WINDOW_RADIUS + 1
LUMINANCE_CONSTANT, CONTRAST_CONSTANT = (0.01 * 255) ** 2, (0.03 * 255) ** 2
CAPTION_COUNT, IMAGES_PER_CAPTION = 100, 2


def ms_ssim(one: Tensor, other: Tensor) -> Tensor:
    """Compute multi-scale structural similarity (Wang et al. 2003, eq. 7) per image in float64, averaged over channels.

    The window is Gaussian, 11 pixels wide, and only positions where it lies within the image count. Of the five scales,
    those at which the image is at least as large as the window are used; their weights are scaled to add up to 1.

    Args:
        one: images (N, C, H, W) in [0, 255], at least 11 pixels in height and width.
        other: the images to compare them with, of the same shape.

    Returns:
        (N,) similarities.

    Raises:
        ValueError: if the images are smaller than the window.
    """
    x, y = one.cpu().double(), other.cpu().double()
    side = min(x.shape[-2:])
    if side < WINDOW_SIZE:
        raise ValueError(f"Images of {side} px: structural similarity needs {WINDOW_SIZE}.")
    scales = sum(side >> scale >= WINDOW_SIZE for scale in range(len(SCALE_WEIGHTS)))
    weights = torch.tensor(SCALE_WEIGHTS[:scales], dtype=torch.float64)
    terms = []
    for scale in range(scales):
        if scale:
            x, y = F.avg_pool2d(x, 2), F.avg_pool2d(y, 2)
        luminance, structure = _compare(x, y)
        terms.append((luminance * structure if scale == scales - 1 else structure).mean((2, 3)).clamp_min(0))
    return torch.stack(terms, 2).pow(weights / weights.sum()).prod(2).mean(1)


def _compare(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Compute luminance, and contrast times structure, at every position of the window."""
    mean_x, mean_y = _blur(x), _blur(y)
    variance_x, variance_y = _blur(x * x) - mean_x.square(), _blur(y * y) - mean_y.square()
    covariance = _blur(x * y) - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + LUMINANCE_CONSTANT) / (mean_x.square() + mean_y.square() + LUMINANCE_CONSTANT)
    return luminance, (2 * covariance + CONTRAST_CONSTANT) / (variance_x + variance_y + CONTRAST_CONSTANT)


def _blur(values: Tensor) -> Tensor:
    """Average under the Gaussian window at every position where the window lies within the image."""
    blurred = torch.from_numpy(gaussian_filter(values.numpy(), WINDOW_SIGMA, radius=WINDOW_RADIUS, axes=(2, 3)))
    return blurred[..., WINDOW_RADIUS:-WINDOW_RADIUS, WINDOW_RADIUS:-WINDOW_RADIUS]


@register("metric", "ms-ssim")
class StructuralSimilarity(Metric):
    """Multi-scale structural similarity of two images of one caption, over 100 captions (Odena et al. 2017).

    It is high where noise changes little. Reported with that of real images of one class.
    """

    needs_captions = needs_run = True
    by_default = False  # diversity says the same, and of more than pixels
    position = 9
    measure, lower_is_better = "ms_ssim", True

    def compute(self, inputs: MetricInputs) -> dict[str, Any]:
        assert inputs.images is not None, "of runs only"
        reference, seed = inputs.reference, inputs.protocol.seed
        images, numbers = reference.choose(CAPTION_COUNT, seed + 2)
        chosen = list(zip(images, numbers, strict=True))
        captions = [reference.data.captions[image][number] for image, number in chosen]
        generated = torch.cat(list(inputs.images(captions, IMAGES_PER_CAPTION, seed + 2)))
        try:
            similarities = ms_ssim(generated[::IMAGES_PER_CAPTION], generated[1::IMAGES_PER_CAPTION])
        except ValueError as error:
            raise unavailable_error("MS-SSIM", str(error)) from error
        scores = {"ms_ssim": float(similarities.mean()), "ms_ssim_interval": interval(similarities)}
        return scores | _compare_real_images(reference, chosen, seed)

    def lines(self, scores: Mapping[str, Any]) -> list[str]:
        real = scores.get("real_ms_ssim")
        beside = "" if real is None else f"   {scores['ms_ssim_against']} {real:.3f}"
        return [line("MS-SSIM", f"{scores['ms_ssim']:.3f}{beside}", scores["ms_ssim_interval"])]


def _compare_real_images(reference: Reference, chosen: list[tuple[int, int]], seed: int) -> dict[str, Any]:
    """Score pairs of real images of one class; nothing where the data has no labels, or no class has two images."""
    if reference.data.labels is None:
        return {}
    images, groups, against = reference.find_similar(chosen, IMAGES_PER_CAPTION, seed)
    pairs = [
        (rows[first], rows[first + 1])
        for rows in (torch.nonzero(groups == group).flatten().tolist() for group in groups.unique())
        for first in range(0, min(len(rows) - 1, IMAGES_PER_CAPTION), IMAGES_PER_CAPTION)
    ]
    if not pairs:
        return {}
    left, right = torch.tensor(pairs).T
    return {"real_ms_ssim": float(ms_ssim(images[left], images[right]).mean()), "ms_ssim_against": against}

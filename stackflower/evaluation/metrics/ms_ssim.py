"""Multi-scale structural similarity of the images generated for one caption."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from scipy.ndimage import gaussian_filter
from torch import Tensor

from stackflower.evaluation.intervals import compute_interval
from stackflower.evaluation.metrics.base import Metric, MetricInputs, build_unavailable_error, format_line
from stackflower.evaluation.reference import Reference
from stackflower.registry import register

SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # fine to coarse
WINDOW_RADIUS, WINDOW_SIGMA = 5, 1.5  # pixels
WINDOW_SIZE = 2 * WINDOW_RADIUS + 1
LUMINANCE_CONSTANT, CONTRAST_CONSTANT = (0.01 * 255) ** 2, (0.03 * 255) ** 2
CAPTION_COUNT, IMAGES_PER_CAPTION = 100, 2


def ms_ssim(images: Tensor, others: Tensor) -> Tensor:
    """Compute multi-scale structural similarity (Wang et al. 2003, eq. 7) per image in float64, averaged over channels.

    The window is Gaussian, 11 pixels wide, and only positions where it lies within the image count. Of the five scales,
    those at which the image is at least as large as the window are used; their weights are scaled to add up to 1.

    Args:
        images: images `(N, C, H, W)` in `[0, 255]`, at least 11 pixels in height and width.
        others: images to compare them with, of the same shape.

    Returns:
        Similarities `(N,)`.

    Raises:
        ValueError: the images are smaller than the window.
    """
    x, y = images.cpu().double(), others.cpu().double()
    side = min(x.shape[-2:])
    if side < WINDOW_SIZE:
        raise ValueError(f"Images of {side} px are too small; structural similarity needs at least {WINDOW_SIZE} px.")
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
    """Average images under the Gaussian window, at every position where it lies within the image."""
    blurred = torch.from_numpy(gaussian_filter(values.numpy(), WINDOW_SIGMA, radius=WINDOW_RADIUS, axes=(2, 3)))
    return blurred[..., WINDOW_RADIUS:-WINDOW_RADIUS, WINDOW_RADIUS:-WINDOW_RADIUS]


@register("metric", "ms-ssim")
class StructuralSimilarity(Metric):
    """Multi-scale structural similarity of two images of one caption, over 100 captions (Odena et al. 2017).

    High values mean that the noise changes little. The same mean for pairs of real images of one caption or class is
    reported next to it.
    """

    needs_captions = needs_run = True
    by_default = False  # diversity measures the same on features instead of pixels
    position = 9
    measure, lower_is_better = "ms_ssim", True

    def compute(self, inputs: MetricInputs) -> dict[str, Any]:
        assert inputs.images is not None, "ensured by `needs_run`"
        reference, seed = inputs.reference, inputs.protocol.seed
        images, numbers = reference.choose(CAPTION_COUNT, seed + 2)
        selection = list(zip(images, numbers, strict=True))
        captions = [reference.data.captions[image][number] for image, number in selection]
        generated = torch.cat(list(inputs.images(captions, IMAGES_PER_CAPTION, seed + 2)))
        try:
            similarities = ms_ssim(generated[::IMAGES_PER_CAPTION], generated[1::IMAGES_PER_CAPTION])
        except ValueError as error:
            raise build_unavailable_error("MS-SSIM", str(error)) from error
        scores = {"ms_ssim": float(similarities.mean()), "ms_ssim_interval": compute_interval(similarities)}
        return scores | _compare_real_images(reference, selection, seed)

    def lines(self, scores: Mapping[str, Any]) -> list[str]:
        real = scores.get("real_ms_ssim")
        real_text = "" if real is None else f"   {scores['ms_ssim_against']} {real:.3f}"
        return [format_line("MS-SSIM", f"{scores['ms_ssim']:.3f}{real_text}", scores["ms_ssim_interval"])]


def _compare_real_images(reference: Reference, selection: list[tuple[int, int]], seed: int) -> dict[str, Any]:
    """Score one pair of real images per caption or class, as `Reference.find_similar` groups them.

    Args:
        reference: split to compare with.
        selection: numbers of images and of their captions.
        seed: seed of the real images.

    Returns:
        The mean similarity and a description of the pairs; empty without labels, or if no group has two images.
    """
    if reference.data.labels is None:
        return {}
    images, groups, against = reference.find_similar(selection, IMAGES_PER_CAPTION, seed)
    pairs = [
        (rows[0], rows[1])
        for rows in (torch.nonzero(groups == group).flatten().tolist() for group in groups.unique())
        if len(rows) > 1
    ]
    if not pairs:
        return {}
    left, right = torch.tensor(pairs).T
    return {"real_ms_ssim": float(ms_ssim(images[left], images[right]).mean()), "ms_ssim_against": against}

"""Nearest training images of generated images, to detect copies of training images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from stackflower.features.base import Features, compute_unit_means, resize_images
from stackflower.utils.pixels import scale_pixels

FEATURES_INPUT_SIZE = 96  # input size of a pretrained network, in pixels
THUMBNAIL_SIZE = 16  # size of the images that are compared without a pretrained network, in pixels
CLOSE_SHARE = 0.01  # share of training images whose nearest other training image is within the limit
DUPLICATE_TOLERANCE = 1e-5  # points within this share of the mean norm are the same image
CHUNK = 1024  # number of points to compare at a time


@dataclass(frozen=True)
class Nearest:
    """The nearest training image of each generated image."""

    index: Tensor  # (N,) index of the training image
    distance: Tensor  # (N,)
    limit: float  # distance of the training images' nearest neighbours at the quantile `CLOSE_SHARE`

    @property
    def copies(self) -> Tensor:
        """Whether each image is nearer to a training image than 99% of training images are, bool `(N,)`."""
        return self.distance < self.limit


def create_describer(features: Features | None) -> Callable[[Tensor], Tensor]:
    """Create a function that maps images, uint8 `(N, 3, R, R)`, to points `(N, F)`.

    Points are the maps of a pretrained network, averaged over positions and each scaled to unit length. Without a
    network, they are the pixels of thumbnails.
    """

    @torch.inference_mode()
    def describe(images: Tensor) -> Tensor:
        size = THUMBNAIL_SIZE if features is None else FEATURES_INPUT_SIZE
        parts = []
        for part in images.split(100):
            x = resize_images(scale_pixels(part), size)
            if features is None:
                parts.append(x.flatten(1))
            else:
                parts.append(torch.cat(compute_unit_means(features(x)), 1).cpu())
        return torch.cat(parts)

    return describe


def find_nearest(generated: Tensor, training: Tensor) -> Nearest:
    """Find the training image nearest to each generated image.

    Duplicates in the training split are ignored for the limit.

    Args:
        generated: points `(N, F)`.
        training: points `(V, M, F)` of V views of each training image, such as its mirror image, of which the nearest
            counts; M is at least 2.
    """
    generated, training = generated.double(), training.double()  # for small rounding errors between equal points
    training_distance, _ = _find_closest(training[0], training, exclude_own=True)
    tolerance = DUPLICATE_TOLERANCE * float(training.square().sum(2).mean()) ** 0.5
    distinct = training_distance[training_distance > tolerance]
    limit = float(distinct.quantile(CLOSE_SHARE)) if len(distinct) else 0.0
    distance, index = _find_closest(generated, training, exclude_own=False)
    return Nearest(index, distance, limit)


def _find_closest(points: Tensor, views: Tensor, exclude_own: bool) -> tuple[Tensor, Tensor]:
    """Find the image closest to each point, with memory proportional to M instead of N·M.

    Args:
        points: points `(N, F)`.
        views: points `(V, M, F)` of V views of each image.
        exclude_own: exclude image i for point i.

    Returns:
        Distances `(N,)`, and indices of the images `(N,)`.
    """
    distances, numbers = [], []
    for first in range(0, len(points), CHUNK):
        table = torch.cdist(points[first : first + CHUNK], views).amin(0)
        if exclude_own:
            rows = torch.arange(len(table))
            table[rows, first + rows] = torch.inf
        closest = table.min(1)
        distances.append(closest.values)
        numbers.append(closest.indices)
    return torch.cat(distances), torch.cat(numbers)

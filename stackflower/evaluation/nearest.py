"""The nearest training image of each generated one: whether a run copies what it was trained on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from stackflower.features.base import Features, compute_unit_means, resize_images
from stackflower.utils.pixels import scale_pixels

SIZE = 96  # px at which a pretrained network looks
THUMBNAIL = 16  # px of the images that are compared where there is none
CLOSE = 0.01  # share of training images that lie closer to another one than this limit
SAME = 1e-5  # of the mean length: nearer points are the same image
CHUNK = 1024


@dataclass(frozen=True)
class Nearest:
    """Of each generated image, the nearest training image."""

    index: Tensor  # (N,) its number
    distance: Tensor  # (N,)
    limit: float  # distance below which a share `CLOSE` of training images has another training image

    @property
    def copies(self) -> Tensor:
        """(N,) bool: nearer to a training image than 99% of training images are to one another."""
        return self.distance < self.limit


def create_describer(features: Features | None) -> Callable[[Tensor], Tensor]:
    """Create a function from images uint8 `(N, 3, R, R)` to points `(N, F)`.

    Points are the maps of a pretrained network averaged over positions, each map of unit length. Without a network,
    they are the pixels of thumbnails.
    """

    @torch.inference_mode()
    def describe(images: Tensor) -> Tensor:
        size = THUMBNAIL if features is None else SIZE
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

    Images that occur twice in the training split count once.

    Args:
        generated: points `(N, F)`.
        training: points `(V, M, F)` of V views of each training image, such as its mirror image; the nearest view
            counts. M is at least 2.
    """
    generated, training = generated.double(), training.double()  # distances of equal points are rounding errors
    training_distance, _ = _find_closest(training[0], training, own=True)
    known = training_distance[training_distance > SAME * float(training.square().sum(2).mean()) ** 0.5]
    limit = float(known.quantile(CLOSE)) if len(known) else 0.0
    distance, index = _find_closest(generated, training, own=False)
    return Nearest(index, distance, limit)


def _find_closest(points: Tensor, among: Tensor, own: bool) -> tuple[Tensor, Tensor]:
    """Return distance and number of the closest point; with `own`, a point's own views are left out.

    Memory grows with M, not with N·M.
    """
    distances, numbers = [], []
    for first in range(0, len(points), CHUNK):
        table = torch.cdist(points[first : first + CHUNK], among).amin(0)
        if own:
            rows = torch.arange(len(table))
            table[rows, first + rows] = torch.inf
        found = table.min(1)
        distances.append(found.values)
        numbers.append(found.indices)
    return torch.cat(distances), torch.cat(numbers)

"""Augmentation of a classifier's training images, with separate random parameters for each image of a batch.

The transforms of torchvision draw one set of parameters per batch, from the global random state. Applied image by
image, the equivalent of `augment_strongly` takes three times as long.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from stackflower.data.images import crop_and_flip
from stackflower.utils.pixels import scale_pixels

MIXUP_ALPHA = 0.2  # α of the distribution Beta(α, α) of shares


def crop_center(images: Tensor, size: int) -> Tensor:
    """Crop images uint8 `(n, S, S, 3)` to their center; return floats `(n, 3, size, size)` in `[-1, 1]`."""
    edge = (images.shape[1] - size) // 2
    inner = slice(edge, edge + size)
    return _to_float(images[:, inner, inner])


def augment_lightly(images: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """Crop images uint8 `(n, S, S, 3)` to `size` px at random positions, and mirror half of the images.

    Returns:
        Floats `(n, 3, size, size)` in `[-1, 1]`.
    """
    n = len(images)
    corner = torch.randint(images.shape[1] - size + 1, (2, n), generator=generator)
    mirror = torch.rand(n, generator=generator) >= 0.5
    return scale_pixels(crop_and_flip(images.contiguous(), torch.arange(n), corner, mirror, None, size))


def augment_strongly(images: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """Crop, rotate and mirror images uint8 `(n, S, S, 3)`, change their contrast and brightness, and erase a square.

    A crop covers 45 to 100% of the area. Rotation is by up to 15°; contrast changes by up to 25%, brightness by up to
    0.2.

    Returns:
        Floats `(n, 3, size, size)`, approximately in `[-1, 1]`.
    """
    n = len(images)

    def draw_uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(n, generator=generator)

    area, ratio = draw_uniform(0.45, 1).sqrt(), draw_uniform(-0.2, 0.2).exp()
    width, height = (area * ratio).clamp(max=1), (area / ratio).clamp(max=1)
    mirror = torch.where(draw_uniform(0, 1) < 0.5, 1.0, -1.0)
    angle = draw_uniform(-0.26, 0.26)
    scale = torch.diag_embed(torch.stack([width * mirror, height], 1))
    rotation = torch.stack([torch.stack([angle.cos(), -angle.sin()], 1), torch.stack([angle.sin(), angle.cos()], 1)], 1)
    shift = torch.stack([draw_uniform(-1, 1) * (1 - width), draw_uniform(-1, 1) * (1 - height)], 1)
    affine = torch.cat([scale @ rotation, shift[:, :, None]], 2)
    grid = F.affine_grid(affine, [n, 3, size, size], align_corners=False)
    x = F.grid_sample(_to_float(images), grid, padding_mode="reflection", align_corners=False)
    x = x * draw_uniform(0.75, 1.25)[:, None, None, None] + draw_uniform(-0.2, 0.2)[:, None, None, None]
    position, half_side = torch.arange(size), size // 8
    rows = (position - draw_uniform(0, size)[:, None]).abs() < half_side
    columns = (position - draw_uniform(0, size)[:, None]).abs() < half_side
    return x.masked_fill((rows[:, :, None] & columns[:, None])[:, None], 0.0)


def _to_float(images: Tensor) -> Tensor:
    """Convert images uint8 `(n, H, W, 3)` to floats `(n, 3, H, W)` in `[-1, 1]`."""
    return scale_pixels(images.permute(0, 3, 1, 2))


class Mix(NamedTuple):
    """Weights and partners of a batch for mixup (Zhang et al. 2018): `share` of an image, the rest of its partner."""

    share: float
    partner: Tensor  # (n,) rows of the batch

    @classmethod
    def draw(cls, size: int, generator: torch.Generator) -> Mix:
        """Draw the share and the partners for a batch of `size` images."""
        share = float(torch.distributions.Beta(MIXUP_ALPHA, MIXUP_ALPHA).sample())
        return cls(share, torch.randperm(size, generator=generator))

    @classmethod
    def identity(cls, size: int) -> Mix:
        """Return the mix that leaves a batch of `size` images unchanged."""
        return cls(1.0, torch.arange(size))

    def to(self, device: torch.device | str) -> Mix:
        """Move to a device."""
        return Mix(self.share, self.partner.to(device))

    def apply(self, inputs: Tensor) -> Tensor:
        """Mix a batch `(n, …)`."""
        return inputs if self.share == 1 else self.share * inputs + (1 - self.share) * inputs[self.partner]

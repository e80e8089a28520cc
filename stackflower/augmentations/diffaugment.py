"""Differentiable augmentation with a fixed strength."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from annotated_types import MinLen
from torch import Tensor

from stackflower.augmentations.base import Augmentation
from stackflower.declarations import Not, Requirement
from stackflower.options import Count, Share
from stackflower.registry import register

Transform = Literal["colour", "translation", "cutout"]


@register("augmentation", "diffaugment")
class DiffAugment(Augmentation):
    """DiffAugment (Zhao et al. 2020, section 3.2): colour, translation and cutout, applied to every image.

    - colour: brightness shifted by ±0.5, saturation scaled by 0 to 2, contrast scaled by 0.5 to 1.5;
    - translation: shifted by up to `translation` of the image size, padded with zeros;
    - cutout: a square of `cutout` of the image size is set to zero.

    With `crop`, images are first cropped at random, so that a later stage is trained on details at full resolution for
    the cost of smaller images, similar to a PatchGAN (Isola et al. 2017).

    Args:
        policy: transformations to apply. With "colour", the discriminator can't see how noise changes brightness or
            saturation.
        translation: largest shift as a share of the image size; 1/8 in the paper.
        cutout: side of the square as a share of the image size; 1/2 in the paper.
        crop: side of the crop in pixels; None: no cropping.
    """

    requires = (
        Requirement(
            "any image size",
            of="discriminator",
            why="shows the discriminator crops of images, but {other} accepts whole images only",
            when={"crop": Not(None)},
        ),
    )

    def __init__(
        self,
        *,
        policy: Annotated[tuple[Transform, ...], MinLen(1)] = ("colour", "translation", "cutout"),
        translation: Share = 0.125,
        cutout: Share = 0.5,
        crop: Count | None = None,
    ):
        super().__init__()
        self.policy, self.translation, self.cutout, self.crop = policy, translation, cutout, crop
        self.dim = 7 if crop is None else 9

    def forward(self, images: Tensor, draws: Tensor) -> Tensor:
        x = images
        if self.crop is not None and self.crop < x.shape[-1]:
            x = _crop(x, draws[:, 7:9], self.crop)
        if "colour" in self.policy:
            x = _change_colours(x, draws[:, :3])
        if "translation" in self.policy:
            x = _translate(x, draws[:, 3:5], round(x.shape[-1] * self.translation))
        if "cutout" in self.policy:
            x = _cut_out(x, draws[:, 5:7], round(x.shape[-1] * self.cutout))
        return x


def _crop(x: Tensor, draws: Tensor, side: int) -> Tensor:
    """Crop `side` × `side` pixels of each image, which must be square."""
    n, c, height, _ = x.shape
    corner = (draws * (height + 1 - side)).floor().long()  # (N, 2)
    rows, columns = (corner[:, :, None] + torch.arange(side, device=x.device)).unbind(1)
    down = x.gather(2, rows[:, None, :, None].expand(n, c, side, height))
    return down.gather(3, columns[:, None, None, :].expand(n, c, side, side))


def _change_colours(x: Tensor, draws: Tensor) -> Tensor:
    """Change brightness, saturation and contrast."""
    brightness, saturation, contrast = draws.to(x.dtype)[:, :, None, None, None].unbind(1)
    x = x + (brightness - 0.5)
    grey = x.mean(1, keepdim=True)
    x = (x - grey) * (2 * saturation) + grey
    mean = x.mean((1, 2, 3), keepdim=True)
    return (x - mean) * (contrast + 0.5) + mean


def _translate(x: Tensor, draws: Tensor, most: int) -> Tensor:
    """Shift by −most to most pixels along each axis."""
    n, c, height, width = x.shape
    shift = (draws * (2 * most + 1)).floor().long() - most  # (N, 2)
    down = torch.arange(height, device=x.device) + shift[:, :1]
    across = torch.arange(width, device=x.device) + shift[:, 1:]
    inside = _is_within(down, height)[:, None, :, None] & _is_within(across, width)[:, None, None, :]
    rows = down.clamp(0, height - 1)[:, None, :, None].expand(n, c, height, width)
    columns = across.clamp(0, width - 1)[:, None, None, :].expand(n, c, height, width)
    return x.gather(2, rows).gather(3, columns) * inside


def _is_within(index: Tensor, size: int) -> Tensor:
    return (index >= 0) & (index < size)


def _cut_out(x: Tensor, draws: Tensor, side: int) -> Tensor:
    """Set a square of `side` pixels to zero; its centre is anywhere in the image, so part of it may lie outside."""
    height, width = x.shape[2:]
    top = (draws[:, :1] * (height + 1 - side % 2)).floor().long() - side // 2
    left = (draws[:, 1:] * (width + 1 - side % 2)).floor().long() - side // 2
    down = torch.arange(height, device=x.device) - top
    across = torch.arange(width, device=x.device) - left
    return x * ~(_is_within(down, side)[:, None, :, None] & _is_within(across, side)[:, None, None, :])

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
    """Colour, translation and cutout of every image (Zhao et al. 2020, DiffAugment, section 3.2).

    - colour: brightness by ±0.5, saturation by 0 to 2 times, contrast by 0.5 to 1.5 times;
    - translation: by up to `translation` of the size, zeros outside;
    - cutout: a square of `cutout` of the size is set to zero.

    With `crop`, a random part of larger images takes the place of the whole before all of them, so that a later stage
    is judged by its details at their own size, at the cost of smaller images, as by the patches of a PatchGAN (Isola et
    al. 2017).

    Args:
        policy: which of them. With colour, what noise changes in brightness or saturation can't be seen by the
            discriminator.
        translation: largest shift, a share of the size; 1/8 in the paper.
        cutout: side of the square, a share of the size; 1/2 in the paper.
        crop: side of the part in pixels; None: no cropping.
    """

    requires = (
        Requirement(
            "any image size",
            of="discriminator",
            why="shows the discriminator parts of images, and {other} takes whole ones only",
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
    """A part of `side` × `side` pixels of each image, which is square."""
    n, c, height, _ = x.shape
    corner = (draws * (height + 1 - side)).floor().long()  # (N, 2)
    rows, columns = (corner[:, :, None] + torch.arange(side, device=x.device)).unbind(1)
    down = x.gather(2, rows[:, None, :, None].expand(n, c, side, height))
    return down.gather(3, columns[:, None, None, :].expand(n, c, side, side))


def _change_colours(x: Tensor, draws: Tensor) -> Tensor:
    brightness, saturation, contrast = draws.to(x.dtype)[:, :, None, None, None].unbind(1)
    x = x + (brightness - 0.5)
    grey = x.mean(1, keepdim=True)
    x = (x - grey) * (2 * saturation) + grey
    mean = x.mean((1, 2, 3), keepdim=True)
    return (x - mean) * (contrast + 0.5) + mean


def _translate(x: Tensor, draws: Tensor, most: int) -> Tensor:
    """Shifted by −most to most pixels each way."""
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
    """A square of `side` pixels set to zero; its centre may be anywhere, so part of it may lie outside."""
    height, width = x.shape[2:]
    top = (draws[:, :1] * (height + 1 - side % 2)).floor().long() - side // 2
    left = (draws[:, 1:] * (width + 1 - side % 2)).floor().long() - side // 2
    down = torch.arange(height, device=x.device) - top
    across = torch.arange(width, device=x.device) - left
    return x * ~(_is_within(down, side)[:, None, :, None] & _is_within(across, side)[:, None, None, :])

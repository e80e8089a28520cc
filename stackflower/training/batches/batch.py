"""What a training step is given, and what all batches have in common."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from stackflower.config.schema import RunConfig
from stackflower.stages.base import OtherTexts

DrawNoise = Callable[[int, torch.Generator], Tensor]
"""(count, seeded generator) → noise (count, Z), as `Stage.draw_noise`."""


@dataclass(frozen=True)
class Batch:
    """One process's share of a step."""

    images: Tensor  # (N, 3, R, R) float32 in [-1, 1], channels-last
    text: Tensor  # (N, T) embeddings of captions of these images
    negative_text: Tensor  # (N, T) of captions of images of other classes
    fake_text: Tensor  # (N, T) what to generate: `text`, or a part of it several times
    noise: Tensor  # (N, Z)
    label: Tensor  # (N,) int64 class of `text`: two of one class are no negatives for one another's images
    fake_label: Tensor  # (N,) int64 the same of `fake_text`
    caption: Tensor  # (N,) int64 number of the caption that `text` embeds
    negative_caption: Tensor  # (N,) int64 number of the caption that `negative_text` embeds
    augmentation: Tensor  # (N, A) uniform in [0, 1), what the augmentation of each row is drawn from
    others: OtherTexts | None  # captions of any images, with which the contrast compares too

    def split(self, parts: int) -> list[Batch]:
        """The batch in equal parts, each with all of `others`."""
        if parts == 1:
            return [self]
        names = [field.name for field in dataclasses.fields(self) if field.name != "others"]
        chunks = {name: getattr(self, name).chunk(parts) for name in names}
        return [
            Batch(**{name: chunk[part] for name, chunk in chunks.items()}, others=self.others) for part in range(parts)
        ]


@dataclass(frozen=True)
class Drawing:
    """How batches are drawn, whatever the images come from.

    Args:
        resolution: R of the images.
        seed: of the order and of every draw.
        draw_noise: the noise of the stage.
        averaged: how many captions' embeddings are averaged for one image.
        flip: mirror half of the images left to right.
        flip_vertical: and half of them upside down.
        hard_negatives: how many negative captions are drawn for an image, of which the most similar to its own caption is used. Of
            many, the most similar shares what the embedding weighs most, so the rest of the caption is learned.
        interpolated: share of a generated batch whose text is halfway between the embeddings of two captions (Reed et al. 2016,
            section 4.3, GAN-INT with β = ½).
        latents_per_caption: how many neighbours of a generated batch share a caption, each with noise of its own.
        augmentation_dim: A, the draws of the augmentation for an image.
        contrasted: M, captions of any images that a batch has besides its own, for the contrast.
    """

    resolution: int
    seed: int
    draw_noise: DrawNoise
    averaged: int = 1
    flip: bool = True
    flip_vertical: bool = False
    hard_negatives: int = 1
    interpolated: float = 0.0
    latents_per_caption: int = 1
    augmentation_dim: int = 0
    contrasted: int = 0

    def generated(self, total: int) -> tuple[Tensor, Tensor, int]:
        """Of a batch of `total` rows, on the CPU: the row (total,) whose caption each row generates, the row (total,) that it is halfway to, and
        how many, of the first, are halfway."""
        source = torch.arange(total) // self.latents_per_caption * self.latents_per_caption
        groups = round(total * self.interpolated / self.latents_per_caption)
        return source, source.roll(self.latents_per_caption), groups * self.latents_per_caption

    def crops(self, total: int, room: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Top and left (2, total) of crops out of `room` places each, and which (total,) are mirrored."""
        corner = torch.randint(room, (2, total), generator=generator, device=generator.device)
        return corner, self.half(total, self.flip, generator)

    @staticmethod
    def half(total: int, wanted: bool, generator: torch.Generator) -> Tensor:
        """bool (total,), half of them true, or none."""
        return torch.rand(total, generator=generator, device=generator.device) < (0.5 if wanted else -1.0)


class Batches(ABC):
    """The training split on a device, a batch for every step."""

    drawing: Drawing
    device: torch.device

    @abstractmethod
    def __len__(self) -> int:
        """Images of a pass over the data."""

    @abstractmethod
    def __call__(self, first: int, total: int, share: slice = slice(None)) -> Batch:
        """The batch of `total` images that starts at image number `first`; `share` is this process's part."""


def cropped(
    images: Tensor, index: Tensor, corner: Tensor, mirror: Tensor, upside_down: Tensor, resolution: int
) -> Tensor:
    """Images `index` (n,) of contiguous uint8 (N, S, S, 3), cropped at `corner` (2, n) and flipped, (n, 3, R, R) in [-1, 1]: one gather for the batch."""
    side, size = images.shape[1], torch.arange(resolution, device=images.device)
    across = torch.where(mirror[:, None], size.flip(0), size)
    down = torch.where(upside_down[:, None], size.flip(0), size)
    top, left = corner
    row = index[:, None] * side + top[:, None] + down
    pixel = row[:, :, None] * side + (left[:, None] + across)[:, None]
    # by one index, not by three, as taking a batch is then half as long
    pixels = images.view(-1, 3).index_select(0, pixel.flatten()).unflatten(0, pixel.shape)
    return pixels.permute(0, 3, 1, 2).to(torch.float32).mul_(1 / 127.5).sub_(1.0)


def build_drawing(config: RunConfig, resolution: int, draw_noise: DrawNoise, augmentation_dim: int) -> Drawing:
    """How batches are cropped, flipped and paired, as the configuration says."""
    train = config.train
    return Drawing(
        resolution=resolution,
        seed=config.seed,
        draw_noise=draw_noise,
        averaged=train.captions_averaged,
        flip=train.flip,
        flip_vertical=train.flip_vertical,
        latents_per_caption=train.latents_per_caption,
        hard_negatives=train.hard_negatives,
        interpolated=train.interpolated,
        augmentation_dim=augmentation_dim,
        contrasted=train.contrasted,
    )

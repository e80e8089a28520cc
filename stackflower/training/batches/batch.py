"""What a training step is given, and how it is drawn."""

from __future__ import annotations

import dataclasses
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
    label: Tensor  # (N,) int64 class of `text`: texts of one class are not negatives for one another's images
    fake_label: Tensor  # (N,) int64 the same for `fake_text`
    caption: Tensor  # (N,) int64 number of the caption that `text` embeds; -1 in a stream
    negative_caption: Tensor  # (N,) int64 number of the caption that `negative_text` embeds; -1 in a stream
    augmentation: Tensor  # (N, A) uniform in [0, 1), what the augmentation of each row is drawn from
    others: OtherTexts | None  # captions of any images, with which the contrast compares too

    def split(self, parts: int) -> list[Batch]:
        """Split into equal parts, each with all of `others`."""
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
        seed: seed of the order and of every draw.
        draw_noise: draws the noise of the stage.
        averaged: number of captions whose embeddings are averaged for one image.
        flip: mirror half of the images left to right.
        flip_vertical: flip half of the images upside down.
        hard_negatives: number of negative captions drawn per image, of which the most similar to its own caption is
            used. Of many, the most similar shares what the embedding weighs most, so that the rest of the caption is
            learned.
        interpolated: share of a generated batch whose text is halfway between the embeddings of two captions (Reed et
            al. 2016, section 4.3, GAN-INT with β = ½).
        latents_per_caption: number of neighbours of a generated batch that share a caption, each with its own noise.
        augmentation_dim: A, the draws of the augmentation per image.
        contrasted: M, captions of any images that a batch has in addition to its own, for the contrast.
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

    def choose_fake_rows(self, total: int) -> tuple[Tensor, Tensor, int]:
        """Choose what a batch of `total` rows generates, on the CPU.

        Returns:
            The row (total,) whose caption each row generates, the row (total,) it is interpolated with, and the number
            of rows, from the first, that are interpolated.
        """
        source = torch.arange(total) // self.latents_per_caption * self.latents_per_caption
        groups = round(total * self.interpolated / self.latents_per_caption)
        return source, source.roll(self.latents_per_caption), groups * self.latents_per_caption


def build_drawing(config: RunConfig, resolution: int, draw_noise: DrawNoise, augmentation_dim: int) -> Drawing:
    """Build the drawing that a configuration describes."""
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

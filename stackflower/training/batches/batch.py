"""The batch of a training step, and the settings of its draws."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from stackflower.config.schema import RunConfig
from stackflower.stages.base import OtherTexts, Words

DrawNoise = Callable[[int, torch.Generator], Tensor]
"""Function of a count and a seeded generator that returns noise `(count, Z)`, such as `Stage.draw_noise`."""


@dataclass(frozen=True)
class Batch:
    """The rows of a batch that belong to one process."""

    images: Tensor  # (N, 3, R, R) float32 in [-1, 1], channels-last
    text: Tensor  # (N, T), embeddings of captions of the images
    negative_text: Tensor  # (N, T), embeddings of captions of images of other classes
    fake_text: Tensor  # (N, T), embeddings of the texts to generate: `text`, or part of it several times
    noise: Tensor  # (N, Z)
    label: Tensor  # (N,) int64, class of `text`; a text is not a negative for images of its class
    fake_label: Tensor  # (N,) int64, class of `fake_text`
    caption: Tensor  # (N,) int64, number of the caption of `text`; -1 in a stream
    negative_caption: Tensor  # (N,) int64, number of the caption of `negative_text`; -1 in a stream
    augmentation: Tensor  # (N, A), uniform in [0, 1), draws for the augmentation of each row
    others: OtherTexts | None  # captions of any images for the contrastive loss
    # words of the drawn captions, the first ones where several are averaged; None unless a part of the run uses words
    words: Words | None = None  # of `text`
    negative_words: Words | None = None  # of `negative_text`
    fake_words: Words | None = None  # of `fake_text`; of a text halfway between two captions, those of its own row

    def split(self, parts: int) -> list[Batch]:
        """Split the batch into equal parts, each with all of `others`.

        Args:
            parts: number of parts.
        """
        if parts == 1:
            return [self]
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self) if field.name != "others"}
        chunks: dict[str, Any] = {
            name: [None] * parts if value is None else value.chunk(parts) for name, value in values.items()
        }
        return [
            Batch(**{name: chunk[part] for name, chunk in chunks.items()}, others=self.others) for part in range(parts)
        ]


@dataclass(frozen=True)
class Drawing:
    """Settings of the draws of a batch, for any source of images.

    Args:
        resolution: height and width R of the images, in pixels.
        seed: seed of the order of the images and of all draws.
        draw_noise: function that draws the noise of the stage.
        averaged: number of captions whose embeddings are averaged for one image.
        flip: mirror half of the images left to right.
        flip_vertical: flip half of the images upside down.
        hard_negatives: number of negative captions drawn per image, of which the one most similar to its own caption is
            used. A very similar negative shares what the embedding weighs most, so that the rest of the caption is
            learned.
        interpolated: share of a generated batch whose text is halfway between the embeddings of two captions (Reed et
            al. 2016, section 4.3, GAN-INT with β = ½).
        latents_per_caption: number of neighbouring generated images that share a caption, each with its own noise.
        augmentation_dim: number A of draws of the augmentation per image.
        contrasted: number M of captions of any images that are added to the batch's own in the contrastive loss.
        words: whether batches contain the words of captions.
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
    words: bool = False

    def choose_fake_rows(self, total: int) -> tuple[Tensor, Tensor, int]:
        """Choose the texts that a batch generates, on the CPU.

        Args:
            total: number of rows of the batch.

        Returns:
            For each row, the row `(total,)` whose caption it generates, and the row `(total,)` with which that caption
            is interpolated; and the number of interpolated rows, counted from the first.
        """
        source = torch.arange(total) // self.latents_per_caption * self.latents_per_caption
        groups = round(total * self.interpolated / self.latents_per_caption)
        return source, source.roll(self.latents_per_caption), groups * self.latents_per_caption


def build_drawing(
    config: RunConfig, resolution: int, draw_noise: DrawNoise, augmentation_dim: int, words: bool = False
) -> Drawing:
    """Build the drawing of a run.

    Args:
        config: configuration of the run.
        resolution: height and width of the images, in pixels.
        draw_noise: function that draws the noise of the stage.
        augmentation_dim: number of draws of the augmentation per image.
        words: whether a part of the run uses the words of captions.
    """
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
        words=words,
    )

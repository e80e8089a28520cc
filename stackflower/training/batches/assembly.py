"""Assemble batches, whatever their images and captions come from: draw, crop, flip and pair, on the training device.

Every draw comes from one generator seeded by (seed, images seen), is made for the whole batch over all processes, and
is then sliced: N processes see the batch that one would, and a resumed run the batch it would have seen.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from stackflower.data.images import crop_and_flip
from stackflower.stages.base import OtherTexts
from stackflower.training.batches.batch import Batch, Drawing
from stackflower.utils.rng import create_rng


class Rows(ABC):
    """The images and captions of one batch: what differs between a prepared split and a stream."""

    images: Tensor  # uint8 (M, S, S, 3) on the device
    index: Tensor  # (n,) of this process's rows among `images`
    label: Tensor  # (N,) int64 class of the text of each row, of all processes
    caption: Tensor  # (n,) int64 number of each caption of this process; -1 in a stream

    @abstractmethod
    def embed(self, rows: Tensor) -> Tensor:
        """Embed the captions of rows (k,) of the whole batch, given on the CPU: (k, T)."""

    @abstractmethod
    def choose_negatives(self, text: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Choose, for each row of this process, the most similar of a few captions of other images (VSE++).

        Args:
            text: (n, T) embeddings of the rows' own captions.
            generator: of the batch's draws.

        Returns:
            Embeddings (n, T), and numbers of the captions (n,), -1 in a stream.
        """

    @abstractmethod
    def draw_others(self, generator: torch.Generator) -> OtherTexts | None:
        """Draw captions of any images for the contrast; None where the drawing has none."""


class Batches(ABC):
    """The training split on a device: one batch per step.

    Args:
        drawing: how batches are drawn.
        device: device of the training.
        size: S, px of the images before they are cropped.
    """

    def __init__(self, drawing: Drawing, device: torch.device, size: int):
        self.drawing, self.device, self.size = drawing, device, size

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of images of a pass over the data."""

    @abstractmethod
    def read_rows(self, first: int, total: int, share: slice, generator: torch.Generator) -> Rows:
        """Read the images and captions of a batch; `generator` is the one its other draws come from."""

    def __call__(self, first: int, total: int, share: slice = slice(None)) -> Batch:
        """Assemble the batch of `total` images that starts at image number `first`.

        The order of the draws is a contract: another order gives every seed other batches.

        Args:
            first: number of the first image.
            total: number of images, over all processes.
            share: this process's part.
        """
        drawing, generator = self.drawing, create_rng(self.drawing.seed, 2, first, device=self.device)
        places = self.size - drawing.resolution + 1
        corner = torch.randint(places, (2, total), generator=generator, device=self.device)
        mirror = self._draw_half(total, generator) & drawing.flip
        rows = self.read_rows(first, total, share, generator)
        noise = drawing.draw_noise(total, generator)
        upside_down = self._draw_half(total, generator)[share] if drawing.flip_vertical else None
        augmentation = torch.rand(total, drawing.augmentation_dim, generator=generator, device=self.device)
        text, fake_text, fake_label = pair_texts(rows, drawing, total, share)
        negative_text, negative_caption = rows.choose_negatives(text, generator)
        others = rows.draw_others(generator)
        pixels = crop_and_flip(
            rows.images, rows.index, corner[:, share], mirror[share], upside_down, drawing.resolution
        )
        return Batch(
            images=pixels.to(torch.float32).mul_(1 / 127.5).sub_(1.0),
            text=text,
            negative_text=negative_text,
            fake_text=fake_text,
            noise=noise[share],
            label=rows.label[share],
            fake_label=fake_label[share],
            caption=rows.caption,
            negative_caption=negative_caption,
            augmentation=augmentation[share],
            others=others,
        )

    def _draw_half(self, total: int, generator: torch.Generator) -> Tensor:
        """Draw bool (total,), true with probability ½."""
        return torch.rand(total, generator=generator, device=self.device) < 0.5


def pair_texts(rows: Rows, drawing: Drawing, total: int, share: slice) -> tuple[Tensor, Tensor, Tensor]:
    """Embed a process's captions, and those it generates images for, some of them halfway between two.

    Returns:
        Embeddings of its rows' captions (n, T), of what it generates (n, T), and the classes (N,) of what all generate.
    """
    device = rows.label.device
    place = torch.arange(total)
    source, beside, mixed = drawing.choose_fake_rows(total)
    # all processes draw the same rows, and each embeds the ones it needs, once
    wanted = (place, source, beside) if mixed else (place, source)
    needed, where = torch.cat([part[share] for part in wanted]).unique(return_inverse=True)
    where, place, source = (part.to(device, non_blocking=True) for part in (where, place, source))
    text, fake_text, *beside_text = rows.embed(needed)[where].chunk(len(wanted))
    fake_label = rows.label[source]
    if mixed:
        between = place < mixed
        fake_text = torch.where(between[share, None], (fake_text + beside_text[0]) / 2, fake_text)
        fake_label = torch.where(between, -1 - source, fake_label)  # not the class of any image
    return text, fake_text, fake_label

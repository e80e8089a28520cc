"""Assemble batches on the training device from any source of images and captions: draw, crop, flip and pair.

All draws come from one generator seeded by (seed, images seen). They are made for the whole batch over all processes
and are then sliced, so that N processes see the same batches as one, and a resumed run the same as an uninterrupted
one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor

from stackflower.data.images import crop_and_flip
from stackflower.stages.base import OtherTexts, Words
from stackflower.training.batches.batch import Batch, Drawing
from stackflower.utils.rng import create_rng


class NegativeTexts(NamedTuple):
    """Captions that the images of a process do not match."""

    embedding: Tensor  # (n, T)
    caption: Tensor  # (n,) int64, numbers of the captions; -1 in a stream
    words: Words | None  # None unless the drawing asks for words


class Rows(ABC):
    """The images and captions of one batch: the part of a batch that differs between a prepared split and a stream."""

    images: Tensor  # uint8 (M, S, S, 3) on the device
    index: Tensor  # (n,) index in `images` of each row of this process
    label: Tensor  # (N,) int64, class of the text of each row, over all processes
    caption: Tensor  # (n,) int64, number of the caption of each row of this process; -1 in a stream

    @abstractmethod
    def embed(self, rows: Tensor) -> Tensor:
        """Embed captions of the whole batch.

        Args:
            rows: row numbers `(k,)` on the CPU.

        Returns:
            Embeddings `(k, T)`.
        """

    @abstractmethod
    def look_up_words(self, rows: Tensor) -> Words:
        """Look up the words of captions of the whole batch, if the drawing asks for words.

        Args:
            rows: row numbers `(k,)` on the CPU. Of several captions of a row, the first is used.
        """

    @abstractmethod
    def choose_negatives(self, text: Tensor, generator: torch.Generator) -> NegativeTexts:
        """Choose the most similar of a few captions of other images for each row of this process (VSE++).

        Args:
            text: embeddings `(n, T)` of the rows' own captions.
            generator: generator of the batch's draws.
        """

    @abstractmethod
    def draw_others(self, generator: torch.Generator) -> OtherTexts | None:
        """Draw captions of any images for the contrastive loss; None if the drawing asks for none.

        Args:
            generator: generator of the batch's draws.
        """


class Batches(ABC):
    """The training split as batches on a device.

    Args:
        drawing: how batches are drawn.
        device: device of the training.
        size: height and width S of the images before cropping, in pixels.
    """

    def __init__(self, drawing: Drawing, device: torch.device, size: int):
        self.drawing, self.device, self.size = drawing, device, size

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of images per pass over the data."""

    @abstractmethod
    def read_rows(self, first: int, total: int, share: slice, generator: torch.Generator) -> Rows:
        """Read the images and captions of a batch.

        Args:
            first: number of the first image.
            total: number of images, over all processes.
            share: rows of this process.
            generator: generator of the batch's draws.
        """

    def __call__(self, first: int, total: int, share: slice = slice(None)) -> Batch:
        """Assemble a batch.

        The order of the draws is a contract: another order would change the batches of every seed.

        Args:
            first: number of the first image.
            total: number of images, over all processes.
            share: rows of this process.
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
        negative = rows.choose_negatives(text, generator)
        others = rows.draw_others(generator)
        words, fake_words = pair_words(rows, drawing, total, share)
        pixels = crop_and_flip(
            rows.images, rows.index, corner[:, share], mirror[share], upside_down, drawing.resolution
        )
        return Batch(
            # in place and by the reciprocal; `scale_pixels` rounds differently, which would change every run
            images=pixels.to(torch.float32).mul_(1 / 127.5).sub_(1.0),
            text=text,
            negative_text=negative.embedding,
            fake_text=fake_text,
            noise=noise[share],
            label=rows.label[share],
            fake_label=fake_label[share],
            caption=rows.caption,
            negative_caption=negative.caption,
            augmentation=augmentation[share],
            others=others,
            words=words,
            negative_words=negative.words,
            fake_words=fake_words,
        )

    def _draw_half(self, total: int, generator: torch.Generator) -> Tensor:
        """Draw booleans `(total,)` that are true with probability ½."""
        return torch.rand(total, generator=generator, device=self.device) < 0.5


def pair_texts(rows: Rows, drawing: Drawing, total: int, share: slice) -> tuple[Tensor, Tensor, Tensor]:
    """Embed the captions of a process, and the texts for which it generates images.

    Args:
        rows: images and captions of the batch.
        drawing: how batches are drawn; it may ask for texts halfway between two captions.
        total: number of images of the batch, over all processes.
        share: rows of this process.

    Returns:
        Embeddings `(n, T)` of the process's captions, embeddings `(n, T)` of the texts to generate, and the classes
        `(N,)` of the texts to generate, over all processes.
    """
    device = rows.label.device
    place = torch.arange(total)
    source, beside, mixed = drawing.choose_fake_rows(total)
    # all processes choose the same rows; each embeds those that it needs, once
    row_sets = (place, source, beside) if mixed else (place, source)
    needed, where = torch.cat([row_set[share] for row_set in row_sets]).unique(return_inverse=True)
    where, place, source = (tensor.to(device, non_blocking=True) for tensor in (where, place, source))
    text, fake_text, *beside_text = rows.embed(needed)[where].chunk(len(row_sets))
    fake_label = rows.label[source]
    if mixed:
        between = place < mixed
        fake_text = torch.where(between[share, None], (fake_text + beside_text[0]) / 2, fake_text)
        fake_label = torch.where(between, -1 - source, fake_label)  # a class that no image has
    return text, fake_text, fake_label


def pair_words(rows: Rows, drawing: Drawing, total: int, share: slice) -> tuple[Words | None, Words | None]:
    """Look up the words of the captions of a process, and of the texts for which it generates images.

    A text halfway between two captions has the words of its own row's caption.

    Args:
        rows: images and captions of the batch.
        drawing: how batches are drawn.
        total: number of images of the batch, over all processes.
        share: rows of this process.

    Returns:
        The words of both, `(n, L, D)`; None unless the drawing asks for words.
    """
    if not drawing.words:
        return None, None
    source, _, _ = drawing.choose_fake_rows(total)
    needed, where = torch.cat([torch.arange(total)[share], source[share]]).unique(return_inverse=True)
    words, fake_words = rows.look_up_words(needed).take(where.to(rows.label.device, non_blocking=True)).chunk(2)
    return words, fake_words

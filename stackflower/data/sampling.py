"""Batches for training: cropped, flipped and paired on the training device, a whole batch at a time.

Every draw comes from one generator seeded by (seed, images seen), made for the whole batch over all processes and then sliced: N
processes see just the batch that one would, and a resumed run just the batch it would have seen.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from stackflower.data.captions import Captions, Embed
from stackflower.data.negatives import NegativeCaptions
from stackflower.data.prepared import Prepared
from stackflower.stages.base import OtherTexts
from stackflower.utils.rng import seeded

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
class Draws:
    """Everything random about a batch, for all processes."""

    index: Tensor  # (N,) images
    corner: Tensor  # (2, N) top and left of the crops
    mirror: Tensor  # (N,) bool
    upside_down: Tensor  # (N,) bool
    captions: Tensor  # (N, averaged)
    negatives: Tensor  # (N, hard_negatives, averaged)
    noise: Tensor  # (N, Z)
    augmentation: Tensor  # (N, A)
    others: tuple[Tensor, Tensor] | None  # (M,) images and (M, averaged) captions of them


class Batches:
    """The training split on a device, a batch for every step.

    Args:
        data: the prepared split.
        embed: embeddings of captions by number, in the order of the captions of `data`.
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

    def __init__(
        self,
        data: Prepared,
        embed: Embed,
        *,
        resolution: int,
        seed: int,
        draw_noise: DrawNoise,
        averaged: int = 1,
        flip: bool = True,
        flip_vertical: bool = False,
        latents_per_caption: int = 1,
        hard_negatives: int = 1,
        interpolated: float = 0.0,
        augmentation_dim: int = 0,
        contrasted: int = 0,
        device: torch.device | str = "cpu",
    ):
        self.device = torch.device(device)
        self.seed, self.resolution, self.draw_noise = seed, resolution, draw_noise
        self.flip, self.flip_vertical = flip, flip_vertical
        self.latents_per_caption, self.interpolated = latents_per_caption, interpolated
        self.augmentation_dim, self.contrasted = augmentation_dim, contrasted
        self.images = data.images.to(self.device)
        self.captions = Captions(data, embed, averaged, self.device)
        self.negatives = NegativeCaptions(data, self.captions, hard_negatives, self.device)
        self._epoch, self._order = -1, torch.empty(0, dtype=torch.int64)

    def __len__(self) -> int:
        return len(self.images)

    def __call__(self, first: int, total: int, share: slice = slice(None)) -> Batch:
        """The batch of `total` images that starts at image number `first`; `share` is this process's part."""
        draws = self._draw(first, total)
        label = self.negatives.label(draws.index, draws.captions)
        text, fake_text, fake_label = self._texts(draws.captions, label, share)
        negative_text, negative_caption = self.negatives.hardest(draws.negatives[share], text)
        return Batch(
            images=self._crop(draws, share),
            text=text,
            negative_text=negative_text,
            fake_text=fake_text,
            noise=draws.noise[share],
            label=label[share],
            fake_label=fake_label[share],
            caption=draws.captions[share, 0],
            negative_caption=negative_caption,
            augmentation=draws.augmentation[share],
            others=self._others(draws.others),
        )

    def indices(self, first: int, count: int) -> Tensor:
        """The images number `first` to `first + count` of the endless shuffled sequence."""
        parts = []
        while count > 0:
            epoch, position = divmod(first, len(self))
            if epoch != self._epoch:
                self._epoch, self._order = epoch, torch.randperm(len(self), generator=seeded(self.seed, 1, epoch))
            part = self._order[position : position + count]
            parts.append(part)
            first, count = first + len(part), count - len(part)
        return torch.cat(parts).to(self.device, non_blocking=True)

    def _draw(self, first: int, total: int) -> Draws:
        index = self.indices(first, total)
        generator = seeded(self.seed, 2, first, device=self.device)

        def half(wanted: bool) -> Tensor:
            return torch.rand(total, generator=generator, device=self.device) < (0.5 if wanted else -1.0)

        room = self.images.shape[1] - self.resolution + 1
        corner = torch.randint(room, (2, total), generator=generator, device=self.device)
        mirror = half(self.flip)
        captions = self.captions.draw(index, generator)
        negatives = self.negatives(index, generator)
        noise = self.draw_noise(total, generator)
        upside_down = half(True) if self.flip_vertical else torch.zeros_like(mirror)
        augmentation = torch.rand(total, self.augmentation_dim, generator=generator, device=self.device)
        others = None
        if self.contrasted:
            images = torch.randint(len(self), (self.contrasted,), generator=generator, device=self.device)
            others = images, self.captions.draw(images, generator)
        return Draws(index, corner, mirror, upside_down, captions, negatives, noise, augmentation, others)

    def _others(self, drawn: tuple[Tensor, Tensor] | None) -> OtherTexts | None:
        if drawn is None:
            return None
        return OtherTexts(self.captions.mean_embedding(drawn[1]), self.negatives.label(*drawn))

    def _texts(self, captions: Tensor, label: Tensor, share: slice) -> tuple[Tensor, Tensor, Tensor]:
        """Embeddings (n, T) of this process's captions and of what it generates, and the classes (N,) of what all generate.

        Every caption of the batch is generated once, or the first of every few neighbours for all of them; some of these are
        halfway to the next.
        """
        place = torch.arange(len(captions))
        source = place // self.latents_per_caption * self.latents_per_caption
        beside = source.roll(self.latents_per_caption)
        groups = round(len(captions) * self.interpolated / self.latents_per_caption)
        mixed = groups * self.latents_per_caption
        # all processes draw the same numbers, and each embeds what it needs
        wanted = (place, source, beside) if mixed else (place, source)
        needed, where = torch.cat([part[share] for part in wanted]).unique(return_inverse=True)
        needed, where, place, source = (
            part.to(self.device, non_blocking=True) for part in (needed, where, place, source)
        )
        text, fake_text, *others = self.captions.mean_embedding(captions[needed])[where].chunk(len(wanted))
        fake_label = label[source]
        if mixed:
            between = place < mixed
            fake_text = torch.where(between[share, None], (fake_text + others[0]) / 2, fake_text)
            fake_label = torch.where(between, -1 - source, fake_label)  # of no image's class
        return text, fake_text, fake_label

    def _crop(self, draws: Draws, share: slice) -> Tensor:
        """Crop, flip and scale to [-1, 1]: one gather for the batch."""
        top, left = draws.corner[0][share], draws.corner[1][share]
        size = torch.arange(self.resolution, device=self.device)
        across = torch.where(draws.mirror[share][:, None], size.flip(0), size)
        down = torch.where(draws.upside_down[share][:, None], size.flip(0), size)
        index = draws.index[share][:, None, None]
        pixels = self.images[index, (top[:, None] + down)[:, :, None], (left[:, None] + across)[:, None]]
        return pixels.permute(0, 3, 1, 2).to(torch.float32).mul_(1 / 127.5).sub_(1.0)

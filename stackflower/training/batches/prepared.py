"""Batches for training: cropped, flipped and paired on the training device, a whole batch at a time.

Every draw comes from one generator seeded by (seed, images seen), made for the whole batch over all processes and then sliced: N
processes see just the batch that one would, and a resumed run just the batch it would have seen.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from stackflower.data.prepared import Prepared
from stackflower.stages.base import OtherTexts
from stackflower.training.batches.batch import Batch, Batches, Drawing, cropped
from stackflower.training.batches.captions import Captions, Embed
from stackflower.training.batches.negatives import NegativeCaptions
from stackflower.utils.rng import seeded


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


class PreparedBatches(Batches):
    """Batches of a prepared split, in a new random order each pass.

    Args:
        data: the prepared split.
        embed: embeddings of captions by number, in the order of the captions of `data`.
        drawing: how batches are drawn.
    """

    def __init__(self, data: Prepared, embed: Embed, drawing: Drawing, device: torch.device | str = "cpu"):
        self.device, self.drawing = torch.device(device), drawing
        self.images = data.images.to(self.device)
        self.captions = Captions(data, embed, drawing.averaged, self.device)
        self.negatives = NegativeCaptions(data, self.captions, drawing.hard_negatives, self.device)
        self._epoch, self._order = -1, torch.empty(0, dtype=torch.int64)

    def __len__(self) -> int:
        return len(self.images)

    def __call__(self, first: int, total: int, share: slice = slice(None)) -> Batch:
        draws = self._draw(first, total)
        label = self.negatives.label(draws.index, draws.captions)
        text, fake_text, fake_label = self._texts(draws.captions, label, share)
        negative_text, negative_caption = self.negatives.hardest(draws.negatives[share], text)
        return Batch(
            images=cropped(
                self.images,
                draws.index[share],
                draws.corner[:, share],
                draws.mirror[share],
                draws.upside_down[share],
                self.drawing.resolution,
            ),
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
                self._epoch, self._order = (
                    epoch,
                    torch.randperm(len(self), generator=seeded(self.drawing.seed, 1, epoch)),
                )
            part = self._order[position : position + count]
            parts.append(part)
            first, count = first + len(part), count - len(part)
        return torch.cat(parts).to(self.device, non_blocking=True)

    def _draw(self, first: int, total: int) -> Draws:
        drawing, index = self.drawing, self.indices(first, total)
        generator = seeded(drawing.seed, 2, first, device=self.device)
        corner, mirror = drawing.crops(total, self.images.shape[1] - drawing.resolution + 1, generator)
        captions = self.captions.draw(index, generator)
        negatives = self.negatives(index, generator)
        noise = drawing.draw_noise(total, generator)
        upside_down = drawing.half(total, True, generator) if drawing.flip_vertical else torch.zeros_like(mirror)
        augmentation = torch.rand(total, drawing.augmentation_dim, generator=generator, device=self.device)
        others = None
        if drawing.contrasted:
            images = torch.randint(len(self), (drawing.contrasted,), generator=generator, device=self.device)
            others = images, self.captions.draw(images, generator)
        return Draws(index, corner, mirror, upside_down, captions, negatives, noise, augmentation, others)

    def _others(self, drawn: tuple[Tensor, Tensor] | None) -> OtherTexts | None:
        if drawn is None:
            return None
        return OtherTexts(self.captions.mean_embedding(drawn[1]), self.negatives.label(*drawn))

    def _texts(self, captions: Tensor, label: Tensor, share: slice) -> tuple[Tensor, Tensor, Tensor]:
        """Embeddings (n, T) of this process's captions and of what it generates, and the classes (N,) of what all generate."""
        place = torch.arange(len(captions))
        source, beside, mixed = self.drawing.generated(len(captions))
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

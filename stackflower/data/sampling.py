"""Batches for training: cropped, flipped and paired on the training device, a whole batch at a time.

Every draw comes from one generator seeded by (seed, step), made for the whole batch over all processes and then
sliced: N processes see just the batch that one would, and a resumed run just the batch it would have seen.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from stackflower.data.negatives import TRIES, Mismatched, below
from stackflower.data.prepared import Prepared
from stackflower.utils.rng import seeded

DrawNoise = Callable[[int, torch.Generator], Tensor]
Embed = Callable[[Tensor], Tensor]


class Batch(NamedTuple):
    """One process's share of a step."""

    images: Tensor  # (N, 3, R, R) float32 in [-1, 1], channels-last
    embeddings: Tensor  # (N, T), of captions of the same pictures
    wrong: Tensor  # (N, T), of captions of pictures of another class
    drawn: Tensor  # (N, T), what to draw: `embeddings`, or a part of them several times over
    noise: Tensor  # (N, Z)
    label: Tensor  # (N,) int64, class of `embeddings`: two of one class are not wrong for one another's pictures
    drawn_label: Tensor  # (N,) int64, the same of `drawn`
    caption: Tensor  # (N,) int64, number of a caption of each picture
    wrong_caption: Tensor  # (N,) int64, number of the caption that `wrong` embeds

    def split(self, parts: int) -> list[Batch]:
        """The batch in equal parts."""
        if parts == 1:
            return [self]
        return [Batch(*part) for part in zip(*(tensor.chunk(parts) for tensor in self), strict=True)]


class Batches:
    """The training split on a device, a batch for every step.

    Args:
        data: the prepared split.
        embed: numbers of captions, in the order of the captions of `data`, (…,) int64 → embeddings (…, T) float32: a table's
            lookup, or an encoder that is being trained.
        resolution: R of the images.
        seed: of the order and of every draw.
        draw_noise: (count, seeded generator) → noise (count, Z), as `Stage.draw_noise`.
        averaged: how many captions' embeddings are averaged for one picture (StackGAN averages four).
        flip: mirror half of the pictures left to right.
        flip_vertical: and half of them upside down.
        wrong_candidates: how many captions of other classes are drawn for a picture, of which the one most like its own
            caption is its wrong one: hard negatives (Faghri et al. 2018, VSE++). Of many, the likest
            mostly shares what the embedding weighs most, and the rest of the caption is what is learned.
        interpolated: share of a drawn batch whose text is halfway between two captions' embeddings, which no picture shows
            (Reed et al. 2016, section 4.3, GAN-INT with β = ½).
        noises_per_caption: how many neighbours of a drawn batch share a caption, each with noise of its own.
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
        noises_per_caption: int = 1,
        wrong_candidates: int = 1,
        interpolated: float = 0.0,
        device: torch.device | str = "cpu",
    ):
        self.device = torch.device(device)
        self.seed, self.resolution, self.draw_noise = seed, resolution, draw_noise
        self.averaged, self.noises_per_caption = averaged, noises_per_caption
        self.flip, self.flip_vertical = flip, flip_vertical
        self.images = data.images.to(self.device)
        self.embed = embed
        counts = torch.tensor([len(captions) for captions in data.captions])
        self.counts, self.most = counts.to(self.device), int(counts.max())
        self.offsets = (counts.cumsum(0) - counts).to(self.device)
        self.mismatched = Mismatched(data.classes(), len(counts), self.device)
        self.wrong_candidates, self.interpolated = wrong_candidates, interpolated
        self.text_of: Tensor | None
        self.own: Tensor | None
        self.text_of, self.own = self._shared_texts(data)
        self._epoch, self._order = -1, torch.empty(0, dtype=torch.int64)

    def __len__(self) -> int:
        return len(self.images)

    def _shared_texts(self, data: Prepared) -> tuple[Tensor, Tensor] | tuple[None, None]:
        """Where pictures of different classes share captions, as they may without labels: the number of each caption's text
        (C,), and of each picture's own texts (N, `most`), -1 where it has fewer."""
        if data.labels is not None:
            return None, None
        known: dict[str, int] = {}
        numbers = torch.tensor([known.setdefault(text, len(known)) for text in data.flat_captions()])
        counts, offsets = self.counts.cpu(), self.offsets.cpu()
        pairs = torch.stack([numbers, data.classes().repeat_interleave(counts)])
        if pairs.unique(dim=1).shape[1] == len(known):
            return None, None
        place = torch.arange(self.most)
        own = numbers[(offsets[:, None] + place).clamp_max(len(numbers) - 1)].masked_fill(place >= counts[:, None], -1)
        return numbers.to(self.device), own.to(self.device)

    def indices(self, first: int, count: int) -> Tensor:
        """The pictures number `first` to `first + count` of the endless shuffled sequence."""
        parts = []
        while count > 0:
            epoch, position = divmod(first, len(self))
            if epoch != self._epoch:
                self._epoch, self._order = epoch, torch.randperm(len(self), generator=seeded(self.seed, 1, epoch))
            part = self._order[position : position + count]
            parts.append(part)
            first, count = first + len(part), count - len(part)
        return torch.cat(parts).to(self.device, non_blocking=True)

    def _caption(self, index: Tensor, generator: torch.Generator) -> Tensor:
        """The number of one caption of each picture."""
        return self.offsets[index] + below(self.counts[index], generator)

    def _others_captions(self, index: Tensor, generator: torch.Generator) -> Tensor:
        """As `_captions` of pictures of other classes, none of them word for word one of the picture's own: the first such
        of `TRIES`, or what comes nearest."""
        assert self.text_of is not None and self.own is not None
        drawn = self._captions(self.mismatched(index.repeat_interleave(TRIES), generator), generator)
        drawn = drawn.unflatten(0, (len(index), TRIES))
        text = torch.where(drawn >= 0, self.text_of[drawn.clamp_min(0)], -2)
        shared = (text[..., None] == self.own[index][:, None, None]).any(3).sum(2)
        return drawn[torch.arange(len(index), device=self.device), shared.argmin(1)]

    def _captions(self, index: Tensor, generator: torch.Generator) -> Tensor:
        """Numbers (n, `averaged`) of different captions of each picture; -1 where it has fewer."""
        if self.averaged == 1:
            return self._caption(index, generator)[:, None]
        count = self.counts[index, None]
        keys = torch.rand(len(index), self.most, generator=generator, device=self.device)
        keys.masked_fill_(torch.arange(keys.shape[1], device=self.device) >= count, 2.0)
        chosen = keys.argsort(1)[:, : self.averaged]
        valid = torch.arange(chosen.shape[1], device=self.device) < count
        return torch.where(valid, self.offsets[index, None] + chosen, -1)

    def _labels(self, index: Tensor, captions: Tensor) -> Tensor:
        """The class of each text: of its picture; or, where other classes share captions, the text itself, as one that is
        read twice is no wrong answer for either picture."""
        if self.text_of is None or self.averaged > 1:
            return self.mismatched.labels[index]
        return self.text_of[captions[:, 0]]

    def _candidates(self, index: Tensor, generator: torch.Generator) -> Tensor:
        """Numbers (n, `wrong_candidates`, `averaged`) of captions that the pictures don't match; -1 where there are fewer."""
        several = index.repeat_interleave(self.wrong_candidates)
        if self.own is not None:
            captions = self._others_captions(several, generator)
        else:
            captions = self._captions(self.mismatched(several, generator), generator)
        return captions.unflatten(0, (len(index), self.wrong_candidates))

    def _mean(self, captions: Tensor) -> Tensor:
        """Mean embeddings (…, T) of captions (…, A), -1 for none."""
        if captions.shape[-1] == 1:
            return self.embed(captions[..., 0])
        valid = captions[..., None] >= 0
        return (self.embed(captions.clamp_min(0)) * valid).sum(-2) / valid.sum(-2)

    def _wrong(self, candidates: Tensor, matched: Tensor) -> tuple[Tensor, Tensor]:
        """Of candidates (n, K, A) the embeddings (n, T) nearest the matching ones, and their captions (n,)."""
        found = self._mean(candidates)
        hardest = torch.einsum("nkt,nt->nk", found, matched).argmax(1)
        rows = torch.arange(len(found), device=self.device)
        return found[rows, hardest], candidates[rows, hardest, 0]

    def _crop(self, index: Tensor, top: Tensor, left: Tensor, mirror: Tensor, upturn: Tensor) -> Tensor:
        """Crop, flip and scale to [-1, 1]: one gather for the batch."""
        size = torch.arange(self.resolution, device=self.device)
        across = torch.where(mirror[:, None], size.flip(0), size)
        down = torch.where(upturn[:, None], size.flip(0), size)
        pixels = self.images[index[:, None, None], (top[:, None] + down)[:, :, None], (left[:, None] + across)[:, None]]
        return pixels.permute(0, 3, 1, 2).to(torch.float32).mul_(1 / 127.5).sub_(1.0)

    def __call__(self, first: int, total: int, share: slice = slice(None)) -> Batch:
        """The batch of `total` pictures that starts at picture number `first`; `share` is this process's part."""
        index = self.indices(first, total)
        generator = seeded(self.seed, 2, first, device=self.device)
        room = self.images.shape[1] - self.resolution + 1
        corner = torch.randint(room, (2, total), generator=generator, device=self.device)
        mirror = torch.rand(total, generator=generator, device=self.device) < (0.5 if self.flip else -1.0)
        captions = self._captions(index, generator)
        candidates = self._candidates(index, generator)
        noise = self.draw_noise(total, generator)
        upturn = torch.zeros_like(mirror)
        if self.flip_vertical:
            upturn = torch.rand(total, generator=generator, device=self.device) < 0.5
        # every caption of the batch, or the first of every few neighbours for all of them
        place = torch.arange(total)
        source = place // self.noises_per_caption * self.noises_per_caption
        beside = source.roll(self.noises_per_caption)
        mixed = round(total * self.interpolated / self.noises_per_caption) * self.noises_per_caption
        # all processes draw the same numbers, and each embeds what it needs
        wanted = (place, source, beside) if mixed else (place, source)
        needed, where = torch.cat([part[share] for part in wanted]).unique(return_inverse=True)
        needed, where, place, source = (
            part.to(self.device, non_blocking=True) for part in (needed, where, place, source)
        )
        matched, drawn, *others = self._mean(captions[needed])[where].chunk(len(wanted))
        label = self._labels(index, captions)
        drawn_label = label[source]
        if mixed:
            between = place < mixed
            drawn = torch.where(between[share, None], (drawn + others[0]) / 2, drawn)
            drawn_label = torch.where(between, -1 - source, drawn_label)  # of no picture's class
        wrong, wrong_caption = self._wrong(candidates[share], matched)
        images = self._crop(index[share], corner[0][share], corner[1][share], mirror[share], upturn[share])
        labels = (label[share], drawn_label[share])
        return Batch(images, matched, wrong, drawn, noise[share], *labels, captions[share, 0], wrong_caption)

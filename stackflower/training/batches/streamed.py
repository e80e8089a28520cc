"""Batches of a stream: as those of a prepared split, but for texts of other images, which come from the images before."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from stackflower.stages.base import OtherTexts
from stackflower.training.batches.batch import Batch, Batches, Drawing, cropped
from stackflower.training.batches.decoding import Decoder, mean_embedding
from stackflower.training.batches.negatives import TRIES
from stackflower.utils.distributed import collected
from stackflower.utils.rng import seeded

POOL = 512  # images whose captions are negatives for the next
CACHED = 2**26  # bytes of embeddings that are kept


class _Texts(NamedTuple):
    """Drawn texts of images; one row an image."""

    embedding: Tensor  # (N, T)
    label: Tensor  # (N,) int64: the class, or without one the text
    code: Tensor  # (N,) int64 of the drawn text


class _Pool:
    """The texts of the last images of a stream, each at a place that its number gives, so that a resumed run has them where they were.

    Args:
        total: images of a batch.
    """

    def __init__(self, total: int):
        self.size = -(-max(POOL, total) // total) * total
        self.end = 0  # number of the image after the last
        self.texts: _Texts | None = None

    def add(self, first: int, texts: _Texts) -> None:
        """Put the texts of the batch that begins at image number `first` in the place of older ones."""
        if self.texts is None:
            self.texts = _Texts(*(one.new_zeros((self.size, *one.shape[1:])) for one in texts))
        place = first % self.size
        for column, new in zip(self.texts, texts, strict=True):
            column[place : place + len(new)] = new
        self.end = first + len(texts.label)

    def __getitem__(self, place: Tensor) -> _Texts:
        assert self.texts is not None
        return _Texts(*(column[place] for column in self.texts))

    def __len__(self) -> int:
        return min(self.end, self.size)


class EmbeddingCache:
    """Embeddings of captions as they come, on a device; those that were used last are kept.

    Args:
        encode: captions to embeddings (N, T), as `TextEncoder.__call__`.
        device: of the training.
    """

    def __init__(self, encode: Callable[[Sequence[str]], Tensor], device: torch.device):
        self.encode, self.device = encode, device
        self._known: OrderedDict[str, Tensor] = OrderedDict()

    def __call__(self, captions: Sequence[str]) -> Tensor:
        """Embeddings (N, T)."""
        missing = [caption for caption in dict.fromkeys(captions) if caption not in self._known]
        if missing:
            new = self.encode(missing).to(self.device)
            self._known.update(zip(missing, new, strict=True))
        for caption in captions:
            self._known.move_to_end(caption)
        found = torch.stack([self._known[caption] for caption in captions])
        while len(self._known) > max(1, CACHED // (4 * found.shape[1])):
            self._known.popitem(last=False)
        return found


class StreamedBatches(Batches):
    """Batches of a stream.

    Negative captions, and those of the contrast, are of the batch and of the `POOL` images before it, over all processes.

    Args:
        decoder: of the stream.
        embed: embeddings (N, T) of captions, on the device.
        drawing: how batches are drawn.
        device: of the training.
        notify: told a sentence for each image that can't be read.
    """

    def __init__(
        self,
        decoder: Decoder,
        embed: Callable[[Sequence[str]], Tensor],
        drawing: Drawing,
        device: torch.device,
        notify: Callable[[str], None] = lambda sentence: None,
    ):
        self.decoder, self.embed, self.drawing, self.device, self.notify = decoder, embed, drawing, device, notify
        self._pool: _Pool | None = None

    def __len__(self) -> int:
        return len(self.decoder.order)

    def __call__(self, first: int, total: int, share: slice = slice(None)) -> Batch:
        rows = range(total)[share]
        found = self.decoder(first, rows)
        for note in found.notes:
            self.notify(note)
        drawing, generator = self.drawing, seeded(self.drawing.seed, 2, first, device=self.device)
        room = found.images.shape[1] - drawing.resolution + 1
        corner, mirror = drawing.crops(total, room, generator)
        noise = drawing.draw_noise(total, generator)
        upside_down = drawing.half(total, True, generator) if drawing.flip_vertical else torch.zeros_like(mirror)
        augmentation = torch.rand(total, drawing.augmentation_dim, generator=generator, device=self.device)
        texts = self._texts(total, found.captions, found.numbers, found.embedding)
        pool = self._pooled(first, total, rows)
        pool.add(first, texts)
        own = torch.from_numpy(found.own).to(self.device, non_blocking=True)
        mine = _Texts(*(column[share] for column in texts))
        negative = self._hardest(pool, mine, own, total, share, generator)
        others = None
        if drawing.contrasted:
            drawn = pool[torch.randint(len(pool), (drawing.contrasted,), generator=generator, device=self.device)]
            others = OtherTexts(drawn.embedding, drawn.label)
        fake_text, fake_label = self._generated(texts, total)
        images = torch.from_numpy(found.images).to(self.device, non_blocking=True)
        none = torch.full((len(rows),), -1, device=self.device)
        batch = Batch(
            images=cropped(
                images,
                torch.arange(len(rows), device=self.device),
                corner[:, share],
                mirror[share],
                upside_down[share],
                drawing.resolution,
            ),
            text=mine.embedding,
            negative_text=negative,
            fake_text=fake_text[share],
            noise=noise[share],
            label=mine.label,
            fake_label=fake_label[share],
            caption=none,
            negative_caption=none,
            augmentation=augmentation[share],
            others=others,
        )
        self.decoder.take_next()
        return batch

    def _texts(
        self, total: int, captions: Sequence[Sequence[str]], numbers: np.ndarray, embedding: np.ndarray | None
    ) -> _Texts:
        """The texts of a whole batch, of which this process has some: the drawn captions, their classes and codes (2, n), and their embeddings, if
        there are any yet."""
        found = mean_embedding(captions, self.embed) if embedding is None else torch.from_numpy(embedding)
        found = found.to(self.device, non_blocking=True)
        labels = torch.from_numpy(numbers).to(self.device, non_blocking=True)
        if labels.shape[1] < total:
            found, labels = collected(found), collected(labels.T).T
        return _Texts(found, labels[0], labels[1])

    def _pooled(self, first: int, total: int, rows: range) -> _Pool:
        """The texts of the images before `first`, read anew after a jump."""
        if self._pool is not None and self._pool.end == first:
            return self._pool
        self._pool = _Pool(total)
        for start in range(max(0, first - self._pool.size), first, total):
            captions, numbers = self.decoder.texts(start, rows)
            self._pool.add(start, self._texts(total, captions, numbers, None))
        return self._pool

    def _hardest(
        self, pool: _Pool, texts: _Texts, own: Tensor, total: int, share: slice, generator: torch.Generator
    ) -> Tensor:
        """Of a few texts of other classes, none of them one of the image's own, the embedding (n, T) most similar to each image's (VSE++)."""
        assert pool.texts is not None
        shape = (total, self.drawing.hard_negatives, TRIES)
        place = torch.randint(len(pool), shape, generator=generator, device=self.device)[share]
        label, code = pool.texts.label[place], pool.texts.code[place]
        # of each few, the first that is of another class and another text, or else differs in one
        same = (label == texts.label[:, None, None]).byte()
        same += (code[..., None] == own[:, None, None]).any(3)
        chosen = pool.texts.embedding[place.gather(2, same.argmin(2, keepdim=True))[..., 0]]
        hardest = (chosen * texts.embedding[:, None]).sum(2).argmax(1)
        return chosen[torch.arange(len(chosen), device=self.device), hardest]

    def _generated(self, texts: _Texts, total: int) -> tuple[Tensor, Tensor]:
        """Embeddings (N, T) of what is generated, and their classes (N,)."""
        source, beside, mixed = self.drawing.generated(total)
        source, beside = source.to(self.device), beside.to(self.device)
        fake_text, fake_label = texts.embedding[source], texts.label[source]
        if mixed:
            between = torch.arange(total, device=self.device) < mixed
            fake_text = torch.where(between[:, None], (fake_text + texts.embedding[beside]) / 2, fake_text)
            fake_label = torch.where(between, -1 - source, fake_label)  # of no image's class
        return fake_text, fake_label

"""Batches of a stream: as those of a prepared split, but for texts of other images, which come from the images before."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from stackflower.data.sampling.batch import Batch, Batches, Drawing, cropped
from stackflower.data.sampling.decoding import Decoder
from stackflower.stages.base import OtherTexts
from stackflower.utils.distributed import collected
from stackflower.utils.rng import seeded

POOL = 512  # images whose captions are negatives for the next
CACHED = 2**26  # bytes of embeddings that are kept


@dataclass
class _Texts:
    """Drawn texts of images; one row an image."""

    embedding: Tensor  # (N, T)
    label: Tensor  # (N,) int64: the class, or without one the text
    code: Tensor  # (N,) int64 of the drawn text

    def __getitem__(self, index: Any) -> _Texts:
        return _Texts(self.embedding[index], self.label[index], self.code[index])

    def followed_by(self, other: _Texts) -> _Texts:
        """These, then others."""
        pairs = zip(vars(self).values(), vars(other).values(), strict=True)
        return _Texts(*(torch.cat(pair) for pair in pairs))


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
        self._pool: _Texts | None = None
        self._pool_end = -1  # number of the image after the pool

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
        texts = self._texts(first, total, rows, found.rows)
        pool = self._pooled(first, total, rows)
        pool = texts if pool is None else pool.followed_by(texts)
        own = torch.tensor([_codes(row["text"], _most(found.rows)) for row in found.rows], device=self.device)
        negative = self._hardest(pool, texts[share], own, total, share, generator)
        others = None
        if drawing.contrasted:
            drawn = torch.randint(len(pool.label), (drawing.contrasted,), generator=generator, device=self.device)
            others = OtherTexts(pool.embedding[drawn], pool.label[drawn])
        self._pool, self._pool_end = pool[-POOL:], first + total
        fake_text, fake_label = self._generated(texts, total)
        images = torch.from_numpy(found.images).to(self.device, non_blocking=True)
        none = torch.full((len(rows),), -1, device=self.device)
        return Batch(
            images=cropped(
                images,
                torch.arange(len(rows), device=self.device),
                corner[:, share],
                mirror[share],
                upside_down[share],
                drawing.resolution,
            ),
            text=texts.embedding[share],
            negative_text=negative,
            fake_text=fake_text[share],
            noise=noise[share],
            label=texts.label[share],
            fake_label=fake_label[share],
            caption=none,
            negative_caption=none,
            augmentation=augmentation[share],
            others=others,
        )

    def captions(self, first: int, total: int) -> list[str]:
        """The first caption of each image of a batch."""
        return [row["text"][0] for row in self.decoder.texts(first, range(total))]

    def _texts(self, first: int, total: int, rows: range, known: Sequence[dict[str, Any]]) -> _Texts:
        """The drawn texts of a whole batch, of which this process has read `rows`."""
        averaged = self.drawing.averaged
        draws = torch.rand(total, averaged, generator=seeded(self.drawing.seed, 5, first)).tolist()
        chosen = [_drawn(row["text"], draws[place]) for place, row in zip(rows, known, strict=True)]
        flat = self.embed([caption for captions in chosen for caption in captions])
        sizes = torch.tensor([len(captions) for captions in chosen])
        owner = torch.arange(len(chosen)).repeat_interleave(sizes).to(self.device)
        embedding = torch.zeros(len(chosen), flat.shape[1], device=self.device).index_add_(0, owner, flat) / sizes[
            :, None
        ].to(self.device)
        code = [_code(captions[0]) for captions in chosen]
        label = [row.get("label", number) for row, number in zip(known, code, strict=True)]
        numbers = torch.tensor([label, code], device=self.device)
        if len(rows) < total:
            embedding, numbers = collected(embedding), collected(numbers.T).T
        return _Texts(embedding, numbers[0], numbers[1])

    def _pooled(self, first: int, total: int, rows: range) -> _Texts | None:
        """The texts of the images before, read anew after a jump."""
        if self._pool_end == first or first == 0:
            return self._pool if first else None
        pool: _Texts | None = None
        for start in range(max(0, first - -(-POOL // total) * total), first, total):
            texts = self._texts(start, total, rows, self.decoder.texts(start, rows))
            pool = texts if pool is None else pool.followed_by(texts)
        assert pool is not None
        return pool[-POOL:]

    def _hardest(
        self, pool: _Texts, texts: _Texts, own: Tensor, total: int, share: slice, generator: torch.Generator
    ) -> Tensor:
        """Of a few texts of other classes, none of them one of the image's own, the embedding (n, T) most similar to each image's (VSE++)."""
        keys = torch.rand(total, len(pool.label), generator=generator, device=self.device)[share]
        same_text = (pool.code[None, :, None] == own[:, None, :]).any(2)
        keys = (
            keys - 1.0 * same_text - 1.0 * (pool.label[None] == texts.label[:, None])
        )  # where nothing else is left, what differs in one
        drawn = keys.topk(min(self.drawing.hard_negatives, keys.shape[1]), dim=1)
        candidates = pool.embedding[drawn.indices]
        similar = torch.einsum("nkt,nt->nk", candidates, texts.embedding).masked_fill(
            drawn.values < drawn.values[:, :1].floor(), -torch.inf
        )
        return candidates[torch.arange(len(candidates), device=self.device), similar.argmax(1)]

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


def _drawn(captions: Sequence[str], draws: Sequence[float]) -> list[str]:
    """Different captions, one for each draw of [0, 1); all where there are fewer."""
    left = list(captions)
    return [left.pop(int(draw * len(left))) for draw in draws[: len(captions)]]


def _code(caption: str) -> int:
    """A number that tells captions from one another, and from classes."""
    return int.from_bytes(hashlib.blake2b(caption.encode(), digest_size=8).digest(), "little") >> 2 | 1 << 61


def _most(rows: Sequence[dict[str, Any]]) -> int:
    """The most captions of a row."""
    return max(len(row["text"]) for row in rows)


def _codes(captions: Sequence[str], most: int) -> list[int]:
    """The numbers of captions, filled up to `most`."""
    codes = [_code(caption) for caption in captions]
    return codes + [-1] * (most - len(codes))

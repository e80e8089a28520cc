"""Batches of a stream, whose negative captions come from the preceding images."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from stackflower.stages.base import OtherTexts, Words
from stackflower.stages.words import pad_words
from stackflower.text.base import TextEncoder
from stackflower.training.batches.assembly import Batches, NegativeTexts, Rows
from stackflower.training.batches.batch import Batch, Drawing
from stackflower.training.batches.decoding import Decoder, compute_mean_embedding
from stackflower.training.batches.negatives import TRIES
from stackflower.utils.distributed import gather_detached, gather_strings

POOL_SIZE = 512  # preceding images whose captions can be negatives
CACHE_BYTES = 2**26  # of embeddings


class StreamTexts(NamedTuple):
    """The drawn texts of images, one row per image."""

    embedding: Tensor  # (N, T)
    label: Tensor  # (N,) int64, class of the image, or code of the text if the image has no class
    code: Tensor  # (N,) int64, code of the drawn text


class TextPool:
    """The texts of the latest images of a stream.

    The number of an image determines the place of its text, so a resumed run has the same pool.

    Args:
        total: number of images per batch.
    """

    def __init__(self, total: int):
        self.size = -(-max(POOL_SIZE, total) // total) * total
        self.end = 0  # number of the image after the latest
        self.texts: StreamTexts | None = None
        self.captions = [""] * self.size  # first caption of each text, if words are needed

    def add(self, first: int, texts: StreamTexts, captions: Sequence[str]) -> None:
        """Replace the oldest texts by those of a batch.

        Args:
            first: number of the batch's first image.
            texts: texts of the whole batch.
            captions: first caption of each text; empty if words are not needed.
        """
        if self.texts is None:
            self.texts = StreamTexts(*(column.new_zeros((self.size, *column.shape[1:])) for column in texts))
        place = first % self.size
        for column, new in zip(self.texts, texts, strict=True):
            column[place : place + len(new)] = new
        self.captions[place : place + len(captions)] = captions
        self.end = first + len(texts.label)

    def __getitem__(self, place: Tensor) -> StreamTexts:
        assert self.texts is not None
        return StreamTexts(*(column[place] for column in self.texts))

    def __len__(self) -> int:
        return min(self.end, self.size)


class EmbeddingCache:
    """Function that embeds captions, and keeps the most recently used embeddings on a device.

    Args:
        encode: function that embeds captions as `(N, T)`, such as a `TextEncoder`.
        device: device of the training.
    """

    def __init__(self, encode: Callable[[Sequence[str]], Tensor], device: torch.device):
        self.encode, self.device = encode, device
        self._kept: OrderedDict[str, Tensor] = OrderedDict()

    def __call__(self, captions: Sequence[str]) -> Tensor:
        """Return embeddings `(N, T)` of captions."""
        missing = [caption for caption in dict.fromkeys(captions) if caption not in self._kept]
        if missing:
            new = self.encode(missing).to(self.device)
            self._kept.update(zip(missing, new, strict=True))
        for caption in captions:
            self._kept.move_to_end(caption)
        embeddings = torch.stack([self._kept[caption] for caption in captions])
        while len(self._kept) > max(1, CACHE_BYTES // (4 * embeddings.shape[1])):
            self._kept.popitem(last=False)
        return embeddings


class WordCache:
    """Function that encodes the words of captions, and keeps the most recently used captions on a device.

    Args:
        encoder: text encoder that has words.
        device: device of the training.
    """

    def __init__(self, encoder: TextEncoder, device: torch.device):
        self.encoder, self.device = encoder, device
        self._kept: OrderedDict[str, Tensor] = OrderedDict()

    def __call__(self, captions: Sequence[str]) -> Words:
        """Return the words of captions, padded to the longest."""
        missing = [caption for caption in dict.fromkeys(captions) if caption not in self._kept]
        if missing:
            words = self.encoder.embed_captions(missing, words=True).words
            assert words is not None
            rows = [vectors[mask] for vectors, mask in zip(*words, strict=True)]
            self._kept.update((caption, row.to(self.device)) for caption, row in zip(missing, rows, strict=True))
        for caption in captions:
            self._kept.move_to_end(caption)
        padded = pad_words([self._kept[caption] for caption in captions])
        while len(self._kept) > max(1, CACHE_BYTES // (4 * padded.vectors[0].numel())):
            self._kept.popitem(last=False)
        return padded


@dataclass(frozen=True)
class StreamedRows(Rows):
    """The decoded rows of a batch that belong to this process, and the texts of the batch and of preceding images."""

    images: Tensor
    index: Tensor
    label: Tensor
    caption: Tensor
    embedding: Tensor  # (N, T), embeddings of the drawn captions of all rows
    pool: TextPool
    own_codes: Tensor  # (n, most) int64, codes of all texts of each row of this process, padded with -1
    share: slice
    drawing: Drawing
    captions: list[str]  # first caption of each row of the batch; empty if words are not needed
    words: WordCache | None  # None unless the drawing asks for words

    def embed(self, rows: Tensor) -> Tensor:
        return self.embedding[rows.to(self.embedding.device, non_blocking=True)]

    def look_up_words(self, rows: Tensor) -> Words:
        assert self.words is not None
        return self.words([self.captions[row] for row in rows.tolist()])

    def choose_negatives(self, text: Tensor, generator: torch.Generator) -> NegativeTexts:
        assert self.pool.texts is not None
        shape = (len(self.label), self.drawing.hard_negatives, TRIES)
        place = torch.randint(len(self.pool), shape, generator=generator, device=self.label.device)[self.share]
        label, code = self.pool.texts.label[place], self.pool.texts.code[place]
        # choose the first try that differs in class and in text, or else the first that differs in either
        same = (label == self.label[self.share, None, None]).byte()
        same += (code[..., None] == self.own_codes[:, None, None]).any(3)
        chosen = place.gather(2, same.argmin(2, keepdim=True))[..., 0]
        candidates = self.pool.texts.embedding[chosen]
        hardest = (candidates * text[:, None]).sum(2).argmax(1)
        rows = torch.arange(len(candidates), device=text.device)
        words = None
        if self.words is not None:
            words = self.words([self.pool.captions[number] for number in chosen[rows, hardest].tolist()])
        return NegativeTexts(candidates[rows, hardest], self.caption, words)

    def draw_others(self, generator: torch.Generator) -> OtherTexts | None:
        if not self.drawing.contrasted:
            return None
        shape = (self.drawing.contrasted,)
        drawn = self.pool[torch.randint(len(self.pool), shape, generator=generator, device=self.label.device)]
        return OtherTexts(drawn.embedding, drawn.label)


class StreamedBatches(Batches):
    """Batches of a stream.

    Negative captions, and additional captions of the contrastive loss, come from the batch and from about `POOL_SIZE`
    images before it, over all processes.

    Args:
        decoder: decoder of the stream.
        embed: function that embeds captions as `(N, T)` on the device.
        drawing: how batches are drawn.
        device: device of the training.
        notify: called with a sentence for each image that can't be read.
        words: encodes the words of captions; needed if the drawing asks for words.
    """

    def __init__(
        self,
        decoder: Decoder,
        embed: Callable[[Sequence[str]], Tensor],
        drawing: Drawing,
        device: torch.device,
        notify: Callable[[str], None] = lambda sentence: None,
        words: WordCache | None = None,
    ):
        super().__init__(drawing, device, decoder.size)
        self.decoder, self.embed, self.notify = decoder, embed, notify
        self.words = words if drawing.words else None
        self._pool: TextPool | None = None

    def __len__(self) -> int:
        return len(self.decoder.order)

    def __call__(self, first: int, total: int, share: slice = slice(None)) -> Batch:
        batch = super().__call__(first, total, share)
        self.decoder.take_next()
        return batch

    def read_rows(self, first: int, total: int, share: slice, generator: torch.Generator) -> StreamedRows:
        places = range(total)[share]
        decoded = self.decoder(first, places)
        for note in decoded.notes:
            self.notify(note)
        texts = self._collect_texts(total, decoded.captions, decoded.numbers, decoded.embedding)
        captions = self._collect_captions(total, decoded.captions)
        pool = self._read_pool(first, total, places)
        pool.add(first, texts, captions)
        return StreamedRows(
            images=torch.from_numpy(decoded.images).to(self.device, non_blocking=True),
            index=torch.arange(len(places), device=self.device),
            label=texts.label,
            caption=torch.full((len(places),), -1, device=self.device),
            embedding=texts.embedding,
            pool=pool,
            own_codes=torch.from_numpy(decoded.codes).to(self.device, non_blocking=True),
            share=share,
            drawing=self.drawing,
            captions=captions,
            words=self.words,
        )

    def _collect_texts(
        self, total: int, captions: Sequence[Sequence[str]], numbers: np.ndarray, embedding: np.ndarray | None
    ) -> StreamTexts:
        """Collect the texts of a whole batch from all processes.

        Args:
            total: number of images of the batch.
            captions: drawn captions of this process's rows; not used with `embedding`.
            numbers: classes and codes `(2, n)` of the captions.
            embedding: embeddings `(n, T)` of the captions; None: compute them here.
        """
        embeddings = compute_mean_embedding(captions, self.embed) if embedding is None else torch.from_numpy(embedding)
        embeddings = embeddings.to(self.device, non_blocking=True)
        labels = torch.from_numpy(numbers).to(self.device, non_blocking=True)
        if labels.shape[1] < total:
            embeddings, labels = gather_detached(embeddings), gather_detached(labels.T).T
        return StreamTexts(embeddings, labels[0], labels[1])

    def _collect_captions(self, total: int, captions: Sequence[Sequence[str]]) -> list[str]:
        """Collect the first drawn caption of each row from all processes; an empty list if words are not needed."""
        if self.words is None:
            return []
        own = [captions_of_image[0] for captions_of_image in captions]
        return gather_strings(own, self.device) if len(own) < total else own

    def _read_pool(self, first: int, total: int, places: range) -> TextPool:
        """Return the texts of the images before `first`; read them again if the position has changed."""
        if self._pool is not None and self._pool.end == first:
            return self._pool
        self._pool = TextPool(total)
        for start in range(max(0, first - self._pool.size), first, total):
            captions, numbers = self.decoder.read_texts(start, places)
            texts = self._collect_texts(total, captions, numbers, None)
            self._pool.add(start, texts, self._collect_captions(total, captions))
        return self._pool

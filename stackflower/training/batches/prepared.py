"""Batches of a prepared split, whose images and captions are all in memory."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from stackflower.data.prepared import Prepared
from stackflower.stages.base import OtherTexts, Words
from stackflower.text.words import WordLookup
from stackflower.training.batches.assembly import Batches, NegativeTexts, Rows
from stackflower.training.batches.batch import Drawing
from stackflower.training.batches.captions import Captions, Embed
from stackflower.training.batches.negatives import NegativeCaptions
from stackflower.utils.rng import create_rng


@dataclass(frozen=True)
class PreparedRows(Rows):
    """The rows of a batch as indices of the images of the split, with their drawn captions."""

    images: Tensor  # all images of the split
    index: Tensor
    label: Tensor
    caption: Tensor
    captions: Tensor  # (N, averaged), numbers of the drawn captions of all rows
    candidates: Tensor  # (n, hard_negatives, averaged), numbers of negative captions
    negatives: NegativeCaptions
    contrasted: int
    words: WordLookup | None  # None unless the drawing asks for words

    def embed(self, rows: Tensor) -> Tensor:
        rows = rows.to(self.captions.device, non_blocking=True)
        return self.negatives.captions.compute_mean_embedding(self.captions[rows])

    def look_up_words(self, rows: Tensor) -> Words:
        assert self.words is not None
        return self.words(self.captions[rows.to(self.captions.device, non_blocking=True), 0])

    def choose_negatives(self, text: Tensor, generator: torch.Generator) -> NegativeTexts:
        embedding, caption = self.negatives.choose_hardest(self.candidates, text)
        return NegativeTexts(embedding, caption, None if self.words is None else self.words(caption))

    def draw_others(self, generator: torch.Generator) -> OtherTexts | None:
        if not self.contrasted:
            return None
        captions = self.negatives.captions
        images = torch.randint(len(self.images), (self.contrasted,), generator=generator, device=self.images.device)
        drawn = captions.draw(images, generator)
        return OtherTexts(captions.compute_mean_embedding(drawn), self.negatives.label(images, drawn))


class PreparedBatches(Batches):
    """Batches of a prepared split, in a new random order in each pass.

    Args:
        data: prepared split.
        embed: function that embeds captions by number, in the order of the captions of `data`.
        drawing: how batches are drawn.
        device: device of the training.
        words: lookup of the words of captions by number; needed if the drawing asks for words.
    """

    def __init__(
        self,
        data: Prepared,
        embed: Embed,
        drawing: Drawing,
        device: torch.device | str = "cpu",
        words: WordLookup | None = None,
    ):
        super().__init__(drawing, torch.device(device), data.images.shape[1])
        self.words = words if drawing.words else None
        self.images = data.images.to(self.device)
        self.captions = Captions(data, embed, drawing.averaged, self.device)
        self.negatives = NegativeCaptions(data, self.captions, drawing.hard_negatives, self.device)
        self._epoch, self._order = -1, torch.empty(0, dtype=torch.int64)

    def __len__(self) -> int:
        return len(self.images)

    def read_rows(self, first: int, total: int, share: slice, generator: torch.Generator) -> PreparedRows:
        index = self.get_indices(first, total)
        captions = self.captions.draw(index, generator)
        candidates = self.negatives(index, generator)
        return PreparedRows(
            images=self.images,
            index=index[share],
            label=self.negatives.label(index, captions),
            caption=captions[share, 0],
            captions=captions,
            candidates=candidates[share],
            negatives=self.negatives,
            contrasted=self.drawing.contrasted,
            words=self.words,
        )

    def get_indices(self, first: int, count: int) -> Tensor:
        """Return a section of the endless shuffled sequence of images.

        Args:
            first: position of the first image in the sequence.
            count: number of images.

        Returns:
            Images `(count,)`.
        """
        parts = []
        while count > 0:
            epoch, position = divmod(first, len(self))
            if epoch != self._epoch:
                self._epoch = epoch
                self._order = torch.randperm(len(self), generator=create_rng(self.drawing.seed, 1, epoch))
            part = self._order[position : position + count]
            parts.append(part)
            first, count = first + len(part), count - len(part)
        return torch.cat(parts).to(self.device, non_blocking=True)

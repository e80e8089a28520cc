"""The reference of scores: real images of a split, their captions and their crop."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from stackflower.data.prepared import Prepared, prepare
from stackflower.data.source import Source
from stackflower.errors import DataError
from stackflower.utils.rng import create_rng

MAX_DEFAULT_CAPTIONS = 5000  # maximum number of captions unless the protocol sets one


@dataclass
class Reference:
    """A split that images are scored against."""

    source: Source
    split: str
    data: Prepared
    resolution: int

    @classmethod
    def open(cls, source: Source, split: str | None, resolution: int, size: int) -> Reference:
        """Open a split by name; None opens the split that scores are reported on.

        Raises:
            DataError: the data has no such split.
        """
        split = split or source.get_reported_split()
        return cls(source, split, prepare(source, split, size), resolution)

    def describe(self) -> dict[str, object]:
        """Return the protocol fields of the data."""
        others = [name for name in self.source.splits() if name != self.split]
        note = (
            ""
            if self.split != "train"
            else " (used in training)"
            if others
            else " (used in training; there is no other)"
        )
        return {
            "data": self.source.title(),
            "data_key": self.data.digest,
            "split": f"{self.split}{note}",
            "real_crop": f"central {self.resolution} of {self.data.images.shape[1]} px",
        }

    def choose(self, count: int | None, seed: int) -> tuple[list[int], list[int]]:
        """Choose random images of the split, and a random caption of each.

        Args:
            count: number of images; the split is repeated if it has fewer. None: all images, at most 5,000.
            seed: seed of the choice.

        Returns:
            Numbers of the images, and of their captions.
        """
        available = len(self.data.rows)
        total = min(available, MAX_DEFAULT_CAPTIONS) if count is None else count
        generator = create_rng(seed, 4)
        permutations = [torch.randperm(available, generator=generator) for _ in range(-(-total // available))]
        images = torch.cat(permutations)[:total].tolist()
        draws = torch.rand(total, generator=generator, dtype=torch.float64).tolist()
        return images, [int(draw * len(self.data.captions[image])) for image, draw in zip(images, draws, strict=True)]

    def find_mentioned_attributes(self, image: int, caption: int) -> dict[str, str]:
        """Return the attributes that a caption mentions, and their values.

        If the data does not record mentions, an attribute counts as mentioned if its value occurs in the caption.
        """
        rows = self.data.rows
        values = {name: column[image] for name, column in rows.attributes.items()}
        if rows.mentioned_attributes is not None:
            return {name: values[name] for name in rows.mentioned_attributes[image][caption] if name in values}
        words = re.findall(r"[^\W_]+", rows.captions[image][caption].lower())
        padded = f" {' '.join(words)} "
        return {name: value for name, value in values.items() if value and f" {value.lower()} " in padded}

    def find_similar(self, selection: Sequence[tuple[int, int]], count: int, seed: int) -> tuple[Tensor, Tensor, str]:
        """Find real images whose diversity is compared with that of images generated for one caption.

        If the source can render images, they show the attributes that each caption mentions, and form one group per
        caption; otherwise they are all images of the captions' classes, in one group per class.

        Args:
            selection: numbers of images and of their captions.
            count: number of images to render per caption.
            seed: seed of the images.

        Returns:
            Images uint8 `(n, 3, R, R)`, their groups `(n,)`, and a description of the images.

        Raises:
            DataError: the source can't render images, and the data has no labels.
        """
        size = self.data.images.shape[1]
        rendered = [
            self.source.similar(self.find_mentioned_attributes(image, caption), count, size, seed + 7919 + number)
            for number, (image, caption) in enumerate(selection)
        ]
        parts = [part for part in rendered if part is not None]
        if len(parts) == len(selection):
            edge = (size - self.resolution) // 2
            inner = slice(edge, edge + self.resolution)
            images = torch.from_numpy(np.concatenate(parts))[:, inner, inner].permute(0, 3, 1, 2)
            groups = torch.arange(len(selection)).repeat_interleave(count)
            return images, groups, "real images that the same caption describes"
        labels = self.data.labels
        if labels is None:
            raise DataError("Diversity compares with real images of the same class; this data has no labels.")
        classes = labels[[image for image, _ in selection]].unique()
        members = torch.isin(labels, classes).nonzero().flatten()
        return self.data.crop_centre(self.resolution, members), labels[members], "real images of the same class"

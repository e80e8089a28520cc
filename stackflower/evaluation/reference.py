"""The real pictures that scores compare with: which of them, of which captions, cropped how."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from stackflower.data.prepared import Prepared, prepare
from stackflower.data.source import Source
from stackflower.data.synthetic.source import SyntheticFlowers
from stackflower.errors import DataError
from stackflower.utils.progress import Bar
from stackflower.utils.rng import seeded


@dataclass
class Real:
    """The split that a run is scored against."""

    source: Source
    split: str
    data: Prepared
    resolution: int

    @classmethod
    def open(cls, source: Source, resolution: int, size: int, display: Bar) -> Real:
        split = "validation" if "validation" in source.splits() else "train"
        return cls(source, split, prepare(source, split, size, display), resolution)

    def describe(self) -> dict[str, object]:
        """The data's part of the protocol."""
        told = self.split if len(self.source.splits()) > 1 else f"{self.split} (there is no other: seen in training)"
        edge = self.data.images.shape[1]
        return {
            "data": self.source.title(),
            "data_key": self.data.key,
            "split": told,
            "real_crop": f"central {self.resolution} of {edge} px",
        }

    def chosen(self, count: int | None, seed: int) -> tuple[list[int], list[int]]:
        """`count` pictures of the split (over again, where there are fewer) and a caption of each, at random."""
        available = len(self.data.rows)
        wanted = min(available, 5000) if count is None else count
        generator = seeded(seed, 4)
        order = torch.cat([torch.randperm(available, generator=generator) for _ in range(-(-wanted // available))])[
            :wanted
        ]
        draws = torch.rand(wanted, generator=generator, dtype=torch.float64).tolist()
        pictures = order.tolist()
        return pictures, [
            int(draw * len(self.data.captions[picture])) for picture, draw in zip(pictures, draws, strict=True)
        ]

    def asked(self, picture: int, caption: int) -> dict[str, str]:
        """What a caption states: attribute → value. Without a record of it, the values that stand in the caption."""
        rows = self.data.rows
        values = {name: column[picture] for name, column in rows.attributes.items()}
        if rows.asked is not None:
            return {name: values[name] for name in rows.asked[picture][caption] if name in values}
        words = re.findall(r"[^\W_]+", rows.captions[picture][caption].lower())
        padded = f" {' '.join(words)} "
        return {name: value for name, value in values.items() if value and f" {value.lower()} " in padded}

    def alike(self, picked: Sequence[tuple[int, int]], each: int, seed: int) -> tuple[Tensor, Tensor, str]:
        """For picked (picture, caption), real pictures uint8 (n, 3, R, R) to be as diverse as, their groups (n,), and what
        they are: `each` that a caption describes, where data is drawn; otherwise all of the classes that were picked."""
        if isinstance(self.source, SyntheticFlowers):
            size = self.data.images.shape[1]
            parts = [
                self.source.alike(self.asked(picture, caption), each, size, seed + 7919 + number)
                for number, (picture, caption) in enumerate(picked)
            ]
            edge = (size - self.resolution) // 2
            inner = slice(edge, edge + self.resolution)
            images = torch.from_numpy(np.concatenate(parts))[:, inner, inner].permute(0, 3, 1, 2)
            groups = torch.arange(len(picked)).repeat_interleave(each)
            return images, groups, "real pictures that the same caption describes"
        labels = self.data.labels
        if labels is None:
            raise DataError("Diversity compares with real pictures of the same class; this data has no labels.")
        wanted = labels[[picture for picture, _ in picked]].unique()
        members = torch.isin(labels, wanted).nonzero().flatten()
        return self.data.centre(self.resolution, members), labels[members], "real pictures of the same class"

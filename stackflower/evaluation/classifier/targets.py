"""Images with the targets that a domain classifier learns: labels, attributes and captions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from stackflower.data.prepared import Prepared
from stackflower.text.base import TextEncoder
from stackflower.text.cache import embed


@dataclass(frozen=True)
class CaptionTable:
    """Embeddings of all captions, ordered by image."""

    embeddings: Tensor  # (C, T)
    first: Tensor  # (N,) row of each image's first caption
    count: Tensor  # (N,) number of captions of each image

    def draw(self, index: Tensor, generator: torch.Generator) -> Tensor:
        """Draw a random caption for each of the images `index` `(n,)`; return the embeddings `(n, T)`."""
        numbers = torch.rand(len(index), generator=generator, dtype=torch.float64) * self.count[index]
        return self.embeddings[self.first[index] + numbers.long()]


@dataclass(frozen=True)
class LabelledImages:
    """Images with a target for each head, and optional captions."""

    images: Tensor  # uint8 (N, S, S, 3)
    targets: Mapping[str, Tensor]  # by head, int64 (N,); -1 if the value is unknown
    captions: CaptionTable | None = None


def find_heads(data: Prepared, names: Sequence[str] | None = None) -> dict[str, tuple[str, ...]]:
    """Find the heads that a split can train: "label", and each attribute with at least two values.

    Args:
        data: the split.
        names: attributes to consider; None: all.

    Returns:
        The names of the values of each head; empty if the data has fewer than two classes.
    """
    classes = sorted(set(data.rows.labels or ()))
    if len(classes) < 2:
        return {}
    heads = {"label": tuple(data.rows.class_names.get(number, str(number)) for number in classes)}
    for name, column in data.rows.attributes.items():
        values = tuple(sorted(set(column)))
        if (names is None or name in names) and len(values) > 1:
            heads[name] = values
    return heads


def build_targets(data: Prepared, heads: Mapping[str, tuple[str, ...]], classes: Sequence[int]) -> dict[str, Tensor]:
    """Build the target of each image for each head.

    Args:
        data: the split.
        heads: for each head, the names of its values.
        classes: class numbers of the values of the head "label".

    Returns:
        By head, int64 `(N,)`: number of the value; -1 if it is not a value of the head.
    """
    targets = {}
    for name, values in heads.items():
        keys: Sequence[Any] = classes if name == "label" else values
        number_of = {key: number for number, key in enumerate(keys)}
        column: Sequence[Any] | None = data.rows.labels if name == "label" else data.rows.attributes.get(name)
        targets[name] = torch.tensor([number_of.get(value, -1) for value in column or [None] * len(data.rows)])
    return targets


def build_caption_table(data: Prepared, encoder: TextEncoder) -> CaptionTable:
    """Embed the captions of a split."""
    count = torch.tensor([len(captions) for captions in data.captions])
    return CaptionTable(embed(data.flatten_captions(), encoder), count.cumsum(0) - count, count)


def label_images(
    data: Prepared, heads: Mapping[str, tuple[str, ...]], classes: Sequence[int], encoder: TextEncoder | None = None
) -> LabelledImages:
    """Combine the images of a split with their targets and, given an encoder, their captions."""
    captions = None if encoder is None else build_caption_table(data, encoder)
    return LabelledImages(data.images, build_targets(data, heads, classes), captions)

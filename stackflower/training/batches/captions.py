"""Draw and embed the captions of a prepared split by number, on the training device."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from stackflower.data.prepared import Prepared
from stackflower.utils.rng import draw_below

Embed = Callable[[Tensor], Tensor]
"""Function from caption numbers `(…)`, int64, to embeddings `(…, T)`, float32: a table, or an encoder in training."""


class Captions:
    """The captions of a prepared split.

    Args:
        data: prepared split; captions are numbered image by image.
        embed: function that embeds captions by number.
        averaged: number of captions whose embeddings are averaged for one image (StackGAN averages four).
        device: device of the draws.
    """

    def __init__(self, data: Prepared, embed: Embed, averaged: int, device: torch.device):
        counts = torch.tensor([len(captions) for captions in data.captions])
        self.counts, self.most = counts.to(device), int(counts.max())
        self.offsets = (counts.cumsum(0) - counts).to(device)
        self.embed, self.averaged, self.device = embed, averaged, device

    def draw(self, index: Tensor, generator: torch.Generator) -> Tensor:
        """Draw different captions of each image.

        Args:
            index: images `(n,)`.
            generator: generator of the draws.

        Returns:
            Numbers of the captions `(n, averaged)`, padded with -1 if an image has fewer.
        """
        if self.averaged == 1:
            return (self.offsets[index] + draw_below(self.counts[index], generator))[:, None]
        count = self.counts[index, None]
        keys = torch.rand(len(index), self.most, generator=generator, device=self.device)
        keys.masked_fill_(torch.arange(keys.shape[1], device=self.device) >= count, 2.0)
        chosen = keys.argsort(1)[:, : self.averaged]
        valid = torch.arange(chosen.shape[1], device=self.device) < count
        return torch.where(valid, self.offsets[index, None] + chosen, -1)

    def compute_mean_embedding(self, captions: Tensor) -> Tensor:
        """Compute mean embeddings of captions.

        Args:
            captions: numbers of captions `(…, A)`; -1 is left out.

        Returns:
            Embeddings `(…, T)`.
        """
        if captions.shape[-1] == 1:
            return self.embed(captions[..., 0])
        valid = captions[..., None] >= 0
        return (self.embed(captions.clamp_min(0)) * valid).sum(-2) / valid.sum(-2)

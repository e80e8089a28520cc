"""Noise that depends on the seed and the row alone."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from stackflower.stages.base import Stage
from stackflower.utils.rng import create_rng

ROWS_PER_BLOCK = 64  # rows that are drawn from one seed


class NoiseTable:
    """Endless table of noise, drawn in blocks that each have their own seed.

    A row has the same values whichever other rows are drawn.

    Args:
        stage: network that the noise is for.
        seed: random seed.
        truncation: redraw values whose magnitude exceeds this; None: keep all.
    """

    def __init__(self, stage: Stage, seed: int, truncation: float | None):
        self.stage, self.seed, self.truncation = stage, seed, truncation
        self._get_block = lru_cache(maxsize=2)(self._draw_block)

    def get_rows(self, first: int, last: int) -> Tensor:
        """Return the rows from `first` up to `last`, exclusive, on the CPU: `(last - first, Z)`."""
        blocks = range(first // ROWS_PER_BLOCK, (last - 1) // ROWS_PER_BLOCK + 1)
        table = torch.cat([self._get_block(number) for number in blocks])
        start = blocks.start * ROWS_PER_BLOCK
        return table[first - start : last - start]

    def _draw_block(self, number: int) -> Tensor:
        generator = create_rng(self.seed, 3, number)
        noise = self.stage.draw_noise(ROWS_PER_BLOCK, generator)
        while self.truncation is not None and bool((outside := noise.abs() > self.truncation).any()):
            noise = torch.where(outside, self.stage.draw_noise(ROWS_PER_BLOCK, generator), noise)
        return noise

"""Noise in seeded blocks."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from stackflower.stages.base import Stage
from stackflower.utils.rng import seeded

ROWS_PER_BLOCK = 64  # rows of noise that share a seed


class NoiseTable:
    """An endless table of noise, made in blocks with seeds of their own, so that a row does not depend on which others are made."""

    def __init__(self, stage: Stage, seed: int, truncation: float | None):
        self.stage, self.seed, self.truncation = stage, seed, truncation
        self._cached = lru_cache(maxsize=2)(self._block)

    def get_rows(self, first: int, last: int) -> Tensor:
        """Rows `first` to `last` (n, Z), on the CPU."""
        blocks = range(first // ROWS_PER_BLOCK, (last - 1) // ROWS_PER_BLOCK + 1)
        table = torch.cat([self._cached(number) for number in blocks])
        start = blocks.start * ROWS_PER_BLOCK
        return table[first - start : last - start]

    def _block(self, number: int) -> Tensor:
        generator = seeded(self.seed, 3, number)
        noise = self.stage.draw_noise(ROWS_PER_BLOCK, generator)
        while self.truncation is not None and bool((outside := noise.abs() > self.truncation).any()):
            noise = torch.where(outside, self.stage.draw_noise(ROWS_PER_BLOCK, generator), noise)
        return noise

"""The order in which a stream of shards is read."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch

from stackflower.utils.rng import create_rng

MOST_LANES = 8


class StreamOrder:
    """An endless sequence of samples, in which each pass contains every sample once, in a new random order.

    The rows of a batch are divided equally into lanes, and each lane reads its own stretch of the shards. A process
    whose rows are whole lanes therefore opens only the shards of its lanes; two lanes share at most the shard at their
    border. The shards of a pass are shuffled, and so are the samples of a lane, in windows of `window`. Every position
    of the sequence is computed directly, so that a resumed run continues at the same shard and sample.

    Args:
        counts: number of samples of each shard.
        seed: seed of the order.
        batch: number of images per step, over all processes.
        window: number of samples of a lane that are shuffled together.
    """

    def __init__(self, counts: list[int], seed: int, batch: int, window: int):
        self.counts, self.seed, self.batch, self.window = np.array(counts), seed, batch, window
        self.total = int(self.counts.sum())
        self.lanes = max(lanes for lanes in range(1, MOST_LANES + 1) if batch % lanes == 0)
        self._shards = lru_cache(maxsize=2)(self._shuffle_shards)
        self._window = lru_cache(maxsize=4 * self.lanes)(self._shuffle_window)

    def __len__(self) -> int:
        return self.total

    def _count_in_lane(self, lane: np.ndarray, before: np.ndarray) -> np.ndarray:
        """Count the images of a lane among the first `before` images; a lane has the same rows in every batch."""
        rows = self.batch // self.lanes
        whole, rest = np.divmod(before, self.batch)
        return whole * rows + np.clip(rest - lane * rows, 0, rows)

    def _shuffle_shards(self, epoch: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Shuffle the shards of a pass.

        Returns:
            The shards in order, where each ends, and where each lane starts, followed by where the last one ends.
        """
        order = torch.randperm(len(self.counts), generator=create_rng(self.seed, 40, epoch)).numpy()
        lanes = np.arange(self.lanes)
        bounds = np.array([epoch, epoch + 1]) * self.total
        sizes = self._count_in_lane(lanes, bounds[1]) - self._count_in_lane(lanes, bounds[0])
        return order, self.counts[order].cumsum(), np.concatenate([[0], sizes.cumsum()])

    def _shuffle_window(self, epoch: int, lane: int, number: int, size: int) -> np.ndarray:
        """Return the order of the samples in one window of a lane."""
        return torch.randperm(size, generator=create_rng(self.seed, 41, epoch, lane, number)).numpy()

    def __call__(self, first: int, rows: range) -> tuple[np.ndarray, np.ndarray]:
        """Find the samples of rows of a batch.

        Args:
            first: number of the batch's first image.
            rows: rows of the batch.

        Returns:
            Shard and sample of each row, two arrays `(n,)`.
        """
        image = first + np.array(rows)
        lane = image % self.batch * self.lanes // self.batch
        shard, sample = np.empty_like(image), np.empty_like(image)
        for epoch in np.unique(image // self.total):
            order, ends, starts = self._shards(int(epoch))
            in_epoch = np.flatnonzero(image // self.total == epoch)
            lanes = lane[in_epoch]
            offset = self._count_in_lane(lanes, image[in_epoch]) - self._count_in_lane(
                lanes, np.array(epoch * self.total)
            )
            place = np.empty_like(offset)
            for at, (number, within) in enumerate(zip(*np.divmod(offset, self.window), strict=True)):
                begin, end = int(starts[lanes[at]]), int(starts[lanes[at] + 1])
                size = min(self.window, end - begin - int(number) * self.window)
                shuffled = self._window(int(epoch), int(lanes[at]), int(number), size)
                place[at] = begin + number * self.window + shuffled[within]
            chosen = np.searchsorted(ends, place, side="right")
            shard[in_epoch] = order[chosen]
            sample[in_epoch] = place - (ends[chosen] - self.counts[order[chosen]])
        return shard, sample

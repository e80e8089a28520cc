"""Extract features of images on all processes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from stackflower.evaluation.extractors.base import Extracted, Extractor
from stackflower.evaluation.processes import Processes
from stackflower.evaluation.protocol import Protocol
from stackflower.evaluation.statistics import Statistics
from stackflower.utils.threads import time_batches

BATCH_SIZE = 64  # number of images generated and extracted at a time


class DistributedExtractor:
    """A feature extractor on every process: each extracts its share of the images, and all receive every result.

    Args:
        extractor: feature extractor, on the device of this process.
        processes: processes that share the images.
    """

    def __init__(self, extractor: Extractor, processes: Processes):
        self.extractor, self.processes = extractor, processes

    def extract(self, images: Tensor) -> Extracted:
        """Extract the features of images uint8 `(N, 3, H, W)` that every process holds."""
        indices = self.processes.share(len(images))
        return self.extract_batches([images[indices.start : indices.stop]] if indices else [])

    def extract_batches(self, batches: Iterable[Tensor]) -> Extracted:
        """Extract the features of this process's batches, uint8 `(n, 3, H, W)`, and gather those of all processes.

        At least one process must have a batch.
        """
        gathered = self.processes.gather([self.extractor(batch) for batch in time_batches(batches)])
        return Extracted.concatenate(gathered)

    def compute_statistics(
        self, batches: Iterable[tuple[Tensor, Tensor]], total: int, protocol: Protocol
    ) -> Statistics:
        """Compute the statistics of a stream of images, in memory that does not grow with their number.

        Args:
            batches: pairs of this process's places `(n,)` and images uint8 `(n, 3, H, W)`; a place is the position of
                an image among all images, which are in random order.
            total: number of images over all processes.
            protocol: protocol of the scores, which sets the number of splits and of images whose features are kept.
        """
        statistics = Statistics(total, protocol.splits, protocol.kept)
        for places, batch in time_batches(batches, lambda pair: len(pair[0])):
            statistics.add(self.extractor(batch), places)
        merged: Statistics
        merged, *others = self.processes.gather([statistics])
        merged.merge(others)
        return merged


def number_images(batches: Iterable[Tensor], first: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the places `(n,)` of each batch's images, counted from `first`, and the batch."""
    for batch in batches:
        yield torch.arange(first, first + len(batch)), batch
        first += len(batch)

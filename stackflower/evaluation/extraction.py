"""Extract features on all processes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from stackflower.evaluation.extractors.base import Extracted, Extractor
from stackflower.evaluation.processes import Processes
from stackflower.evaluation.protocol import Protocol
from stackflower.evaluation.statistics import Statistics

BATCH = 64  # images that are generated and extracted at a time


class DistributedExtractor:
    """An extractor on every process: each extracts its share of the images, and all get everything.

    Args:
        extractor: on this process's device.
        processes: among which images are divided.
    """

    def __init__(self, extractor: Extractor, processes: Processes):
        self.extractor, self.processes = extractor, processes

    def extract(self, images: Tensor) -> Extracted:
        """Extract images, uint8 (N, 3, H, W), that every process has."""
        mine = self.processes.share(len(images))
        return self.extract_batches([images[mine.start : mine.stop]] if mine else [])

    def extract_batches(self, batches: Iterable[Tensor]) -> Extracted:
        """Extract this process's batches, uint8 (n, 3, H, W), and gather those of all; at least one has images."""
        gathered = self.processes.gather([self.extractor(batch) for batch in batches])
        return Extracted.concatenate(gathered)

    def compute_statistics(
        self, batches: Iterable[tuple[Tensor, Tensor]], total: int, protocol: Protocol
    ) -> Statistics:
        """Compute the statistics of images as they come; nothing that is kept grows with their number.

        Args:
            batches: this process's images, uint8 (n, 3, H, W), each batch after the places (n,) of its images among
                all, which are in random order.
            total: number of images, over all processes.
            protocol: number of splits, and of images whose features are kept.
        """
        mine = Statistics(total, protocol.splits, protocol.kept)
        for places, batch in batches:
            mine.add(self.extractor(batch), places)
        merged: Statistics
        merged, *others = self.processes.gather([mine])
        merged.merge(others)
        return merged


def number_images(batches: Iterable[Tensor], first: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield each batch after the places (n,) of its images, which are counted from `first`."""
    for batch in batches:
        yield torch.arange(first, first + len(batch)), batch
        first += len(batch)

"""Compute and cache the statistics of real images, which generated images are compared with."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from stackflower.evaluation import real_features
from stackflower.evaluation.extraction import BATCH_SIZE, DistributedExtractor, number_images
from stackflower.evaluation.protocol import Protocol
from stackflower.evaluation.reference import Reference
from stackflower.evaluation.statistics import Statistics
from stackflower.utils.rng import create_rng


def load_or_compute(
    extractor: DistributedExtractor, reference: Reference, rows: Tensor, protocol: Protocol
) -> Statistics:
    """Return the statistics of images `rows` `(n,)` of a split, from the cache if all processes have them there."""
    path = real_features.build_path(extractor.extractor, reference, rows, protocol)
    cached = real_features.load(path)
    cached_everywhere = all(extractor.processes.gather([cached is not None]))
    if cached is not None and cached_everywhere:
        return cached
    computed = compute_split_statistics(extractor, reference, rows, protocol)
    if extractor.processes.is_main:
        real_features.save(computed, path)
    return computed


def compute_split_statistics(
    extractor: DistributedExtractor, reference: Reference, rows: Tensor, protocol: Protocol
) -> Statistics:
    """Compute the statistics of images `rows` `(n,)` of a split."""
    indices = extractor.processes.share(len(rows))
    parts = rows[indices.start : indices.stop].split(BATCH_SIZE) if indices else ()
    batches = (reference.data.crop_centre(reference.resolution, part) for part in parts)
    return extractor.compute_statistics(number_images(batches, indices.start), len(rows), protocol)


def load_training_statistics(
    extractor: DistributedExtractor, reference: Reference, protocol: Protocol
) -> Statistics | None:
    """Return the statistics of at most `Protocol.kept` training images; None if they are the reference split."""
    if reference.split == "train":
        return None
    with extractor.processes.main_first():
        size = reference.data.images.shape[1]
        training = Reference.open(reference.source, "train", reference.resolution, size)
    order = torch.randperm(len(training.data.rows), generator=create_rng(protocol.seed, 10))[: protocol.kept]
    return load_or_compute(extractor, training, order, replace(protocol, splits=1))

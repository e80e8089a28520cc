"""Cache of the statistics of real images."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from stackflower.evaluation.extractors.base import Extractor
from stackflower.evaluation.protocol import Protocol
from stackflower.evaluation.reference import Reference
from stackflower.evaluation.statistics import Statistics
from stackflower.utils.atomic import replacing
from stackflower.utils.cache import compute_key, make_cache_folder, reporting_cache_errors


def build_path(extractor: Extractor, reference: Reference, rows: Tensor, protocol: Protocol) -> Path:
    """Return the cache file of the statistics of the images `rows` `(n,)` of a split.

    Its name depends on the extractor's weights and resizing, on the images and their crop, and on the protocol.
    """
    fields = sorted((key, str(value)) for key, value in extractor.describe().items())
    settings = reference.data.key, reference.resolution, protocol.splits, protocol.kept
    key = compute_key("real", fields, settings, extractor.device.type, rows.tolist())
    return make_cache_folder("features") / f"{key}.safetensors"


def load(path: Path) -> Statistics | None:
    """Read what `save` wrote; return None if the file is missing or damaged."""
    try:
        return Statistics.from_tensors(load_file(path))
    except (OSError, SafetensorError, KeyError, ValueError):
        return None


def save(statistics: Statistics, path: Path) -> None:
    """Write statistics to the cache.

    Raises:
        DataError: the cache can't be written.
    """
    with reporting_cache_errors(path.parent), replacing(path) as temporary:
        save_file(statistics.to_tensors(), temporary)

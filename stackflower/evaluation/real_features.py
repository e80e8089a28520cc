"""The cache of what an extractor gives for real images, with which every run is compared."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from stackflower.evaluation.extractors.base import Extracted, Extractor
from stackflower.evaluation.reference import Reference
from stackflower.utils.atomic import replacing
from stackflower.utils.cache import cache_folder, key_of, not_writable

HEAD = "head/"  # before the name of an attribute's logits


def file_of(extractor: Extractor, reference: Reference, rows: Tensor) -> Path:
    """Where the outputs for the images `rows` (n,) of a split are kept: the name stands for weights, resizing, images and crop."""
    described = sorted((key, str(value)) for key, value in extractor.describe().items())
    key = key_of("real", described, reference.data.key, reference.resolution, extractor.device.type, rows.tolist())
    return cache_folder("features") / f"{key}.safetensors"


def load(path: Path) -> Extracted | None:
    """What `save` wrote; None where there is nothing, or nothing whole."""
    try:
        tensors = load_file(path)
        heads = {name.removeprefix(HEAD): values for name, values in tensors.items() if name.startswith(HEAD)}
        return Extracted(tensors["features"], tensors["logits"], heads)
    except (OSError, SafetensorError, KeyError):
        return None


def save(found: Extracted, path: Path) -> None:
    """Keep outputs. DataError where the cache can't be written."""
    tensors = {"features": found.features, "logits": found.logits}
    tensors |= {HEAD + name: values for name, values in found.heads.items()}
    try:
        with replacing(path) as temporary:
            save_file({name: values.contiguous() for name, values in tensors.items()}, temporary)
    except (OSError, SafetensorError) as error:
        raise not_writable(path.parent, error) from error

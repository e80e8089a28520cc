"""The cache of caption embeddings."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import suppress

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from stackflower.text.base import TextEncoder
from stackflower.utils.atomic import replacing
from stackflower.utils.cache import cache_folder, key_of, reporting_cache_errors
from stackflower.utils.progress import progress_bar


def embed(captions: Sequence[str], encoder: TextEncoder, chunk: int = 1024) -> Tensor:
    """Embeddings (N, T) of captions as the networks take them, from the cache if they are there."""
    digest = hashlib.blake2b("\0".join(captions).encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
    path = cache_folder("embeddings") / f"{key_of(encoder.fingerprint(), len(captions), digest)}.safetensors"
    if path.exists():
        with suppress(OSError, SafetensorError, KeyError):  # damaged: they are made again
            return load_file(path)["embeddings"]
    unique = list(dict.fromkeys(captions))
    position = {caption: row for row, caption in enumerate(unique)}
    parts = []
    with progress_bar(f"embedding {len(unique):,} captions", len(unique)) as progress:
        for first in range(0, len(unique), chunk):
            parts.append(encoder(unique[first : first + chunk]))
            progress(len(parts[-1]))
    table = torch.cat(parts)[torch.tensor([position[caption] for caption in captions])].contiguous()
    with reporting_cache_errors(path.parent), replacing(path) as temporary:
        save_file({"embeddings": table}, temporary)
    return table

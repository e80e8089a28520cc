"""Embeddings of captions, computed once and cached."""

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
from stackflower.utils.cache import compute_key, make_cache_folder, reporting_cache_errors
from stackflower.utils.progress import progress_bar


def embed(captions: Sequence[str], encoder: TextEncoder, chunk: int = 1024) -> Tensor:
    """Return embeddings of captions as the networks expect them, from the cache if possible.

    Args:
        captions: N captions; repeated ones are encoded once.
        encoder: frozen text encoder.
        chunk: number of captions per call of the encoder.

    Returns:
        Embeddings ``(N, T)``, float32, with a root mean square of 1.
    """
    digest = hashlib.blake2b("\0".join(captions).encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
    path = make_cache_folder("embeddings") / f"{compute_key(encoder.fingerprint(), len(captions), digest)}.safetensors"
    if path.exists():
        with suppress(OSError, SafetensorError, KeyError):  # a damaged file is written again
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

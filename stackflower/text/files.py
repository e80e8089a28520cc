"""Embeddings of captions as files, for the encoder ``precomputed`` and other programs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from stackflower import registry
from stackflower.errors import ConfigError, DataError
from stackflower.text.base import TextEncoder
from stackflower.utils.atomic import replacing, reporting_write_errors


def embed_captions(captions: Sequence[str], text: Mapping[str, Any]) -> np.ndarray:
    """Compute embeddings of unit length, float32 (N, T).

    Args:
        captions: one or more sentences.
        text: name and options of the text encoder. ConfigError for one that has to be trained first.
    """
    encoder: TextEncoder = registry.create("text", text["name"], **{k: v for k, v in text.items() if k != "name"})
    if encoder.learns:
        raise ConfigError(
            f"`text={text['name']}` is not trained yet: train it with `stackflower train-text`, then give its folder."
        )
    encoder.fit(captions)
    return encoder.encode(captions).numpy()


def save_embeddings(table: np.ndarray, captions: Sequence[str], out: str) -> None:
    """Write embeddings to a .npy file, or with their captions to a .safetensors file."""
    path = Path(out).expanduser()
    if path.suffix not in (".npy", ".safetensors"):
        raise ConfigError(
            f"`out={out}`: embeddings are written as .npy, or as .safetensors with their captions; name a file such as "
            "embeddings.safetensors."
        )
    with reporting_write_errors(path, DataError), replacing(path) as temporary:
        if path.suffix == ".npy":
            np.save(temporary, table)
        else:
            save_file({"embeddings": table}, temporary, {"captions": json.dumps(list(captions))})

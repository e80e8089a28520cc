"""Export embeddings of captions to files, for the encoder ``precomputed`` and other programs."""

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
from stackflower.text.checks import report_given_captions
from stackflower.utils.atomic import replacing, reporting_write_errors


def embed_captions(captions: Sequence[str], text: Mapping[str, Any]) -> np.ndarray:
    """Compute embeddings of captions.

    Args:
        captions: N captions, at least one.
        text: name and options of the text encoder.

    Returns:
        Embeddings ``(N, T)``, float32, each of unit length.

    Raises:
        ConfigError: the encoder has to be trained first.
        DataError: the encoder can represent nothing of a caption.
    """
    encoder: TextEncoder = registry.create("text", text["name"], **{k: v for k, v in text.items() if k != "name"})
    if encoder.learns:
        raise ConfigError(
            f"`text={text['name']}` is not trained yet. Train it with `stackflower train-text`, then give its folder."
        )
    encoder.fit(captions)
    report_given_captions(encoder, captions)
    return encoder.encode(captions).numpy()


def save_embeddings(table: np.ndarray, captions: Sequence[str], out: str) -> None:
    """Write embeddings to a .npy file, or embeddings and captions to a .safetensors file.

    Args:
        table: embeddings ``(N, T)``.
        captions: N captions.
        out: path of the file; its suffix selects the format.

    Raises:
        ConfigError: the path has another suffix.
        DataError: the file can't be written.
    """
    path = Path(out).expanduser()
    if path.suffix not in (".npy", ".safetensors"):
        raise ConfigError(
            f"`out={out}`: the name must end in .npy (embeddings only) or .safetensors (with captions), such as "
            "embeddings.safetensors."
        )
    with reporting_write_errors(path, DataError), replacing(path) as temporary:
        if path.suffix == ".npy":
            np.save(temporary, table)
        else:
            save_file({"embeddings": table}, temporary, {"captions": json.dumps(list(captions))})

"""The embed command: captions to sentence embeddings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import save_file

from stackflower.config.schema import Part
from stackflower.data.caption_files import captions_of
from stackflower.errors import ConfigError, DataError
from stackflower.text.base import TextEncoder
from stackflower.utils.atomic import replacing


def embed(captions: list[str], file: str | None, text: dict[str, Any], out: str | None) -> dict[str, Any]:
    """Embeddings of captions, written to a file or listed."""
    captions = captions_of(captions, file, every=True)
    encoder: TextEncoder = Part.from_dict(text).create("text")
    if encoder.learns:
        raise ConfigError(
            f"--text {text['name']} is not trained yet: `stackflower train-text --data DIR --text {text['name']} --out FOLDER` "
            "trains it, then --text FOLDER."
        )
    encoder.fit(captions)
    table = encoder.encode(captions).numpy()
    if out is None:
        similar = table @ table.T
        lines = [f"{len(captions)} captions, {table.shape[1]} dimensions; cosine similarities:"]
        lines += [
            "  ".join(f"{value:5.2f}" for value in row) + f"  {caption}"
            for row, caption in zip(similar, captions, strict=True)
        ][:20]
        return {"captions": captions, "embeddings": table.tolist(), "text": "\n".join(lines)}
    path = Path(out).expanduser()
    if path.suffix not in (".npy", ".safetensors"):
        raise ConfigError(
            f"--out {out}: embeddings are written as .npy, or as .safetensors with their captions; name a file such as embeddings.safetensors."
        )
    try:
        with replacing(path) as temporary:
            if path.suffix == ".npy":
                np.save(temporary, table)
            else:
                save_file({"embeddings": table}, temporary, {"captions": json.dumps(captions)})
    except (OSError, SafetensorError) as error:
        raise DataError(f"{path} can't be written: {error}. Choose another --out.") from error
    return {
        "file": str(path),
        "captions": len(captions),
        "dimensions": table.shape[1],
        "text": f"{path}: {len(captions)} × {table.shape[1]}",
    }

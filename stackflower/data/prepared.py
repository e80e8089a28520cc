"""The prepared form of a split: pictures decoded once to square uint8, memory-mapped, with their captions.

It lies in a cache folder (STACKFLOWER_CACHE, by default ~/.cache/stackflower) under a key of the data's content and the
settings, is written aside and renamed, and can be deleted at any time.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from stackflower.data.source import Progress, Rows, Source
from stackflower.errors import DataError
from stackflower.text.base import TextEncoder

VERSION = 1
Bar = Callable[[str, int], AbstractContextManager[Progress]]


def cache_folder() -> Path:
    """Where prepared data, embeddings and classifiers lie."""
    return Path(os.environ.get("STACKFLOWER_CACHE") or Path.home() / ".cache" / "stackflower")


def key_of(*parts: object) -> str:
    """A short name for a combination of settings."""
    return hashlib.blake2b(repr((VERSION, *parts)).encode(), digest_size=12).hexdigest()


@dataclass
class Prepared:
    """One split, ready for use."""

    images: Tensor  # uint8 (N, S, S, 3), memory-mapped
    rows: Rows
    key: str

    @property
    def captions(self) -> list[list[str]]:
        return self.rows.captions

    @property
    def labels(self) -> Tensor | None:
        """(N,) int64, or None."""
        return None if self.rows.labels is None else torch.tensor(self.rows.labels)

    def classes(self) -> Tensor:
        """(N,) int64: the labels; without them, pictures with just the same captions (tags, say) are of one class, as none
        of these captions is wrong for another of them."""
        if self.labels is not None:
            return self.labels
        known: dict[frozenset[str], int] = {}
        return torch.tensor([known.setdefault(frozenset(captions), len(known)) for captions in self.captions])

    def flat_captions(self) -> list[str]:
        """Every caption, picture by picture: the order of the rows of an embedding table."""
        return [caption for captions in self.rows.captions for caption in captions]

    def centre(self, resolution: int, index: Tensor | slice = slice(None)) -> Tensor:
        """The central `resolution` pixels, uint8 (n, 3, R, R): what scores of real pictures are computed on."""
        edge = (self.images.shape[1] - resolution) // 2
        return self.images[index, edge : edge + resolution, edge : edge + resolution].permute(0, 3, 1, 2)


def _publish(temporary: Path, folder: Path) -> None:
    """Rename a finished folder into place; if another process was first, its result stays."""
    try:
        temporary.rename(folder)
    except OSError:
        if not folder.exists():
            raise
        shutil.rmtree(temporary, ignore_errors=True)


def prepare(source: Source, split: str, size: int, bar: Bar) -> Prepared:
    """Open the prepared form of a split at `size` pixels, making it if it is not in the cache.

    Args:
        bar: makes a progress display from a label and a length, as a context manager giving "n more are done".
    """
    if split not in source.splits():
        raise DataError(f"There is no split {split!r}; this data has: {', '.join(source.splits())}.")
    key = key_of(type(source).__name__, source.fingerprint(split), split, size)
    folder = cache_folder() / "prepared" / key
    if not (folder / "rows.json").exists():
        rows = source.rows(split)
        temporary = folder.with_name(f".{key}-{uuid.uuid4().hex[:8]}")
        temporary.mkdir(parents=True)
        try:
            images = np.lib.format.open_memmap(
                temporary / "images.npy", mode="w+", dtype=np.uint8, shape=(len(rows), size, size, 3)
            )
            with bar(f"preparing {split} ({len(rows):,} pictures at {size} px)", len(rows)) as progress:
                left_out = source.fill(split, images, progress)
            if left_out:
                rows = rows.without(left_out)
                np.save(temporary / "images.npy", np.delete(images, left_out, axis=0))
            images.flush()
            (temporary / "rows.json").write_text(json.dumps(rows.plain()), encoding="utf-8")
            _publish(temporary, folder)
        except OSError as error:
            raise DataError(
                f"The prepared data could not be written to {folder.parent}: {error}. Free some space, or set the "
                "environment variable STACKFLOWER_CACHE to a folder elsewhere."
            ) from error
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    images = np.load(folder / "images.npy", mmap_mode="c")
    rows = Rows.from_plain(json.loads((folder / "rows.json").read_text(encoding="utf-8")))
    return Prepared(torch.from_numpy(images), rows, key)


def embed(captions: Sequence[str], encoder: TextEncoder, bar: Bar, chunk: int = 1024) -> Tensor:
    """Embeddings (N, T) of captions as the networks read them, from the cache where they are there."""
    digest = hashlib.blake2b("\0".join(captions).encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
    path = cache_folder() / "embeddings" / f"{key_of(encoder.fingerprint(), len(captions), digest)}.safetensors"
    if path.exists():
        return load_file(path)["embeddings"]
    unique = list(dict.fromkeys(captions))
    position = {caption: row for row, caption in enumerate(unique)}
    parts = []
    with bar(f"embedding {len(unique):,} captions", len(unique)) as progress:
        for first in range(0, len(unique), chunk):
            parts.append(encoder(unique[first : first + chunk]))
            progress(len(parts[-1]))
    table = torch.cat(parts)[torch.tensor([position[caption] for caption in captions])].contiguous()
    temporary = path.with_name(f".{path.name}-{uuid.uuid4().hex[:8]}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({"embeddings": table}, temporary)
        temporary.replace(path)
    except (OSError, SafetensorError) as error:
        raise DataError(
            f"The embeddings could not be written to {path.parent}: {error}. Free some space, or set the environment "
            "variable STACKFLOWER_CACHE to a folder elsewhere."
        ) from error
    finally:
        temporary.unlink(missing_ok=True)
    return table

"""The prepared form of a split: images decoded once to square uint8, memory-mapped, with their captions.

It is kept in a cache folder (STACKFLOWER_CACHE, by default ~/.cache/stackflower) under a key of the data's content and the
settings, is written atomically, and can be deleted at any time.
"""

from __future__ import annotations

import json
import shutil
import uuid
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from stackflower.data.source import Rows, Source
from stackflower.errors import DataError
from stackflower.utils.cache import cache_folder, key_of, not_writable
from stackflower.utils.progress import Bar


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
        """(N,) int64: the labels; without them, images with the same set of captions (such as tags) are of one class, as none of
        these captions is a negative for another of them."""
        if self.labels is not None:
            return self.labels
        known: dict[frozenset[str], int] = {}
        return torch.tensor([known.setdefault(frozenset(captions), len(known)) for captions in self.captions])

    def flat_captions(self) -> list[str]:
        """Every caption, image by image: the order of the rows of an embedding table."""
        return [caption for captions in self.rows.captions for caption in captions]

    def centre(self, resolution: int, index: Tensor | slice = slice(None)) -> Tensor:
        """The central `resolution` pixels, uint8 (n, 3, R, R): the real images that scores are computed with."""
        edge = (self.images.shape[1] - resolution) // 2
        return self.images[index, edge : edge + resolution, edge : edge + resolution].permute(0, 3, 1, 2)


def _publish(temporary: Path, folder: Path) -> None:
    """Rename a finished folder to its final name; if another process was first, keep its result."""
    try:
        temporary.rename(folder)
    except OSError:
        if not folder.exists():
            raise
        shutil.rmtree(temporary, ignore_errors=True)


def prepare(source: Source, split: str, size: int, bar: Bar) -> Prepared:
    """Open the prepared form of a split at `size` pixels, making it if it is not in the cache.

    Args:
        bar: makes a progress bar from a label and a length.
    """
    if split not in source.splits():
        raise DataError(f"There is no split {split!r}; this data has: {', '.join(source.splits())}.")
    key = key_of(type(source).__name__, source.fingerprint(split), split, size)
    folder = cache_folder("prepared") / key
    if (folder / "rows.json").exists():
        with suppress(OSError, ValueError, TypeError, KeyError, AttributeError):
            return _read(folder, key)
        shutil.rmtree(folder, ignore_errors=True)  # damaged, or of another version: it is made again
    _make(source, split, size, folder, bar)
    return _read(folder, key)


def _make(source: Source, split: str, size: int, folder: Path, bar: Bar) -> None:
    """Decode a split into a folder, aside first."""
    rows = source.rows(split)
    temporary = folder.with_name(f".{folder.name}-{uuid.uuid4().hex[:8]}")
    try:
        temporary.mkdir()
        images = np.lib.format.open_memmap(
            temporary / "images.npy", mode="w+", dtype=np.uint8, shape=(len(rows), size, size, 3)
        )
        with bar(f"preparing {split} ({len(rows):,} images at {size} px)", len(rows)) as progress:
            left_out = source.fill(split, images, progress)
        if left_out:
            rows = rows.without(left_out)
            np.save(temporary / "images.npy", np.delete(images, left_out, axis=0))
        images.flush()
        (temporary / "rows.json").write_text(json.dumps(rows.to_dict()), encoding="utf-8")
        _publish(temporary, folder)
    except OSError as error:
        raise not_writable(folder.parent, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _read(folder: Path, key: str) -> Prepared:
    """What `_make` left; ValueError or another error where it is damaged."""
    images = np.load(folder / "images.npy", mmap_mode="c")
    rows = Rows.from_dict(json.loads((folder / "rows.json").read_text(encoding="utf-8")))
    if len(images) != len(rows):
        raise ValueError("images and rows differ in number")
    return Prepared(torch.from_numpy(images), rows, key)

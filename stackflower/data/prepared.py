"""The prepared form of a split: images decoded once to square uint8, memory-mapped, with their captions.

It is kept in a cache folder (STACKFLOWER_CACHE, by default ~/.cache/stackflower) under a key of the data's content and the
settings, is written atomically, and can be deleted at any time.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Container
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor

from stackflower.data.source import Rows, Source
from stackflower.errors import DataError
from stackflower.utils.atomic import replacing, write_text
from stackflower.utils.cache import cache_folder, key_of, not_writable
from stackflower.utils.progress import Bar

IMAGES, ROWS, LEFT_OUT, DONE = "images.npy", "rows.json", "left-out.json", "done.npy"
ROWS_AT_ONCE = 4096


@dataclass
class Prepared:
    """One split, ready for use."""

    images: Tensor  # uint8 (N, S, S, 3), memory-mapped
    rows: Rows
    key: str
    left_out: list[str] = field(default_factory=list)  # a sentence for each row or image that can't be used

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


def prepare(source: Source, split: str, size: int, bar: Bar, jobs: int | None = None) -> Prepared:
    """Open the prepared form of a split at `size` pixels, making it if it is not in the cache. One that was interrupted goes on.

    Args:
        bar: makes a progress bar from a label and a length.
        jobs: threads or processes that make it; None: one for each core.
    """
    if split not in source.splits():
        raise DataError(f"There is no split {split!r}; this data has: {', '.join(source.splits())}.")
    key = key_of(type(source).__name__, source.fingerprint(split), split, size)
    given = source.prepared_folder(split, size)
    if given is not None:
        try:
            return _read(given, key)
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise DataError(f"{given} is damaged ({error}); prepare the data again.") from error
    folder = cache_folder("prepared") / key
    if (prepared := _from_cache(folder, key)) is not None:
        return prepared
    try:
        with FileLock(folder.with_name(f".{key}.lock")):  # another process may be making it
            if (prepared := _from_cache(folder, key)) is not None:
                return prepared
            _make(source, split, size, folder, bar, jobs)
            folder.with_name(f".{key}.lock").unlink(missing_ok=True)
    except OSError as error:
        raise not_writable(folder.parent, error) from error
    return _read(folder, key)


def _from_cache(folder: Path, key: str) -> Prepared | None:
    """What is in the cache; None where there is nothing, or nothing that can be read, which is then removed."""
    if not (folder / ROWS).exists():
        return None
    with suppress(OSError, ValueError, TypeError, KeyError, AttributeError):
        return _read(folder, key)
    shutil.rmtree(folder, ignore_errors=True)  # damaged, or of another version
    return None


def _make(source: Source, split: str, size: int, folder: Path, bar: Bar, jobs: int | None) -> None:
    """Decode a split into a folder, aside first, from where it was left if it was interrupted."""
    rows = source.rows(split)
    partial = folder.with_name(f".{folder.name}-partial")
    partial.mkdir(exist_ok=True)
    images = _array(partial / IMAGES, np.uint8, (len(rows), size, size, 3))
    done = _array(partial / DONE, np.bool_, (len(rows),))
    with bar(f"preparing {split} ({len(rows):,} images at {size} px)", len(rows)) as progress:
        bad = source.fill(split, images, progress, done, jobs)
    left_out = [*source.left_out(split), *(bad[place] for place in sorted(bad))]
    if bad:
        rows = rows.without(list(bad))
        _without(partial / IMAGES, images, bad)
    images.flush()
    (partial / LEFT_OUT).write_text(json.dumps(left_out), encoding="utf-8")
    (partial / DONE).unlink()
    write_text(partial / ROWS, json.dumps(rows.to_dict()))
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)


def _array(path: Path, dtype: type, shape: tuple[int, ...]) -> np.memmap[Any, Any]:
    """An array in a file, with what an earlier process wrote into it."""
    with suppress(OSError, ValueError, EOFError):
        found = np.lib.format.open_memmap(path, mode="r+")
        if found.dtype == dtype and found.shape == shape:
            return found
    return np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)


def _without(path: Path, images: np.ndarray, left_out: Container[int]) -> None:
    """Rewrite an array in a file without some of its rows, some at a time."""
    kept = np.array([place for place in range(len(images)) if place not in left_out])
    with replacing(path) as temporary:
        fewer = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.uint8, shape=(len(kept), *images.shape[1:]))
        for first in range(0, len(kept), ROWS_AT_ONCE):
            fewer[first : first + ROWS_AT_ONCE] = images[kept[first : first + ROWS_AT_ONCE]]
        fewer.flush()


def _read(folder: Path, key: str) -> Prepared:
    """What `_make` left; ValueError or another error where it is damaged."""
    images = np.load(folder / IMAGES, mmap_mode="c")
    rows = Rows.from_dict(json.loads((folder / ROWS).read_text(encoding="utf-8")))
    left_out = json.loads((folder / LEFT_OUT).read_text(encoding="utf-8"))
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1] != images.shape[2] or images.shape[3] != 3:
        raise ValueError(f"{IMAGES} holds {images.dtype} {images.shape}")
    if len(images) != len(rows):
        raise ValueError("images and rows differ in number")
    return Prepared(torch.from_numpy(images), rows, key, left_out)

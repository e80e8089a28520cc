"""The prepared form of a split: images decoded once to square uint8, memory-mapped, with their captions.

It is kept in a cache folder (STACKFLOWER_CACHE, by default ~/.cache/stackflower) under a key of the data's content and
the settings, is written atomically, and can be deleted at any time.
"""

from __future__ import annotations

import json
import mmap
import os
import re
import shutil
from collections.abc import Container, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor

from stackflower.data.json_lines import JsonLines, write_json_lines
from stackflower.data.rows import checked, together
from stackflower.data.source import Rows, Source
from stackflower.errors import DataError
from stackflower.utils.atomic import RESUMES, replacing, reporting_write_errors, write_text
from stackflower.utils.cache import cache_folder, key_of, reporting_cache_errors
from stackflower.utils.progress import Progress, progress_bar

IMAGES, ROWS, LEFT_OUT, KEY = "images.npy", "rows.jsonl", "left-out.json", "key.json"
DONE, KEPT = "done.npy", "kept.npy"  # while it is made: which images are there, and those that are not left out
ROWS_AT_ONCE = 4096
# what reading a damaged file raises
DAMAGE = (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError)


@dataclass
class Prepared:
    """One split, ready for use."""

    images: Tensor  # uint8 (N, S, S, 3), memory-mapped
    rows: Rows
    key: str
    left_out: list[str] = field(default_factory=list)  # a sentence for each row or image that can't be used

    @property
    def captions(self) -> Sequence[list[str]]:
        return self.rows.captions

    @property
    def labels(self) -> Tensor | None:
        """(N,) int64, or None."""
        return None if self.rows.labels is None else torch.tensor(self.rows.labels)

    def classes(self) -> Tensor:
        """(N,) int64: the labels; without them, images with the same set of captions (such as tags) are of one class,
        as none of these captions is a negative for another of them.
        """
        if self.labels is not None:
            return self.labels
        numbers: dict[frozenset[str], int] = {}
        return torch.tensor([numbers.setdefault(frozenset(captions), len(numbers)) for captions in self.captions])

    def flat_captions(self) -> list[str]:
        """Every caption, image by image: the order of the rows of an embedding table."""
        return [caption for captions in self.rows.captions for caption in captions]

    def centre(self, resolution: int, index: Tensor | slice = slice(None)) -> Tensor:
        """The central `resolution` pixels, uint8 (n, 3, R, R): the real images that scores are computed with."""
        edge = (self.images.shape[1] - resolution) // 2
        return self.images[index, edge : edge + resolution, edge : edge + resolution].permute(0, 3, 1, 2)


def prepare(source: Source, split: str, size: int, jobs: int | None = None) -> Prepared:
    """Open the prepared form of a split at `size` pixels, making it if it is not in the cache. One that was interrupted
    goes on.

    Args:
        jobs: threads or processes that make it; None: one for each core.
    """
    if split not in source.splits():
        raise DataError(f"There is no split {split!r}; this data has: {', '.join(source.splits())}.")
    key = _key(source, split, size)
    given = source.prepared_folder(split, size)
    if given is not None:
        return open_prepared(given, key)
    folder = cache_folder("prepared") / key
    if (prepared := _from_cache(folder, key)) is not None:
        return prepared
    with reporting_cache_errors(folder.parent):
        return _make(source, split, size, folder, key, jobs)


def prepare_into(source: Source, split: str, size: int, folder: Path, jobs: int | None = None) -> Prepared:
    """As `prepare`, into a folder of the user's.

    DataError where it holds the prepared form of something else, or can't be written.
    """
    key = _key(source, split, size)
    if _holds(folder, key):
        return open_prepared(folder, key)
    with reporting_write_errors(folder, DataError, RESUMES):
        return _make(source, split, size, folder, key, jobs)


def _holds(folder: Path, key: str) -> bool:
    """Whether a folder has what the key names. DataError where it has something else."""
    if not (folder / ROWS).exists():
        return False
    if (folder / KEY).exists() and (folder / KEY).read_text(encoding="utf-8") == json.dumps(key):
        return True
    raise DataError(f"{folder} holds other data, or at another size; name a new folder, or delete that one.")


def _key(source: Source, split: str, size: int) -> str:
    """The name of a prepared split. DataError for a size that the data can't be prepared at."""
    least, most = source.sizes
    if not least <= size <= most:
        raise DataError(
            f"{source.title()} can be prepared at {least} to {most:,} px, not {size}; choose another `size`."
        )
    return key_of(type(source).__name__, source.fingerprint(split), split, size)


def open_prepared(folder: Path, key: str) -> Prepared:
    """The prepared form in a folder. DataError where it is damaged."""
    try:
        return _read(folder, key)
    except DAMAGE as error:
        raise damaged(folder, error) from error


def damaged(folder: Path, error: Exception) -> DataError:
    """The sentence for a folder that can't be read."""
    return DataError(f"{folder} is damaged ({error}); prepare the data again.")


def _from_cache(folder: Path, key: str) -> Prepared | None:
    """What is in the cache; None where there is nothing, or nothing that can be read, which is then removed."""
    if not (folder / ROWS).exists():
        return None
    with suppress(*DAMAGE):
        return _read(folder, key)
    shutil.rmtree(folder, ignore_errors=True)  # damaged, or of another version
    return None


def _make(source: Source, split: str, size: int, folder: Path, key: str, jobs: int | None) -> Prepared:
    """Decode a split into a folder, aside first, resuming what was interrupted; one process at a time."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(cache_folder("prepared") / f".{key_of(str(folder.resolve()))}.lock"):
        prepared = _from_cache(folder, key) if _holds(folder, key) else None  # another process may have made it
        return prepared or _decode(source, split, size, folder, key, jobs)


def _decode(source: Source, split: str, size: int, folder: Path, key: str, jobs: int | None) -> Prepared:
    rows = source.rows(split)
    partial = folder.with_name(f".{folder.name}-{key}")
    partial.mkdir(exist_ok=True)
    of_done, of_images = (
        (partial / DONE, np.bool_, (len(rows),)),
        (partial / IMAGES, np.uint8, (len(rows), size, size, 3)),
    )
    done, images = _array(*of_done), _array(*of_images)
    if (
        done is None or images is None
    ):  # one says nothing without the other; `done` first, which must not outlive its images
        done, images = _new_array(*of_done), _new_array(*of_images)
    with progress_bar(f"preparing {split} ({len(rows):,} images at {size} px)", len(rows)) as progress:
        bad = source.fill(split, images, _dropping(images, progress), done, jobs)
    left_out = [*source.left_out(split), *(bad[place] for place in sorted(bad))]
    if bad:
        _without(partial / KEPT, images, bad)
    images.flush()
    write_text(partial / LEFT_OUT, json.dumps(left_out))
    write_text(partial / KEY, json.dumps(key))
    write_json_lines(partial / ROWS, (rows.row(number) for number in range(len(rows)) if number not in bad))
    if bad:
        (partial / KEPT).replace(partial / IMAGES)
    (partial / DONE).unlink()
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)
    for other in folder.parent.glob(f".{folder.name}-*"):  # of a command that failed, and will not go on
        if is_partial(other, folder.name):
            shutil.rmtree(other, ignore_errors=True)
    return _read(folder, key)


def _dropping(images: np.memmap[Any, Any], progress: Progress) -> Progress:
    """`progress` that now and then takes what was written out of the process's memory: the file has it."""
    passed = 0

    def further(count: int) -> None:
        nonlocal passed
        passed += count
        if passed >= ROWS_AT_ONCE and hasattr(mmap, "MADV_DONTNEED"):
            passed = 0
            images.base.madvise(mmap.MADV_DONTNEED)  # type: ignore[union-attr]
        progress(count)

    return further


def is_partial(path: Path, split: str) -> bool:
    """Whether a folder is that of a preparation that was interrupted."""
    return re.fullmatch(rf"\.{split}-[0-9a-f]{{24}}", path.name) is not None


def _array(path: Path, dtype: type, shape: tuple[int, ...]) -> np.memmap[Any, Any] | None:
    """An array in a file, with what an earlier process wrote into it; None where it is not there."""
    with suppress(OSError, ValueError, EOFError):
        array = np.lib.format.open_memmap(path, mode="r+")
        if array.dtype == dtype and array.shape == shape:
            return array
    return None


def _new_array(path: Path, dtype: type, shape: tuple[int, ...]) -> np.memmap[Any, Any]:
    """An array of zeros in a file that has its room on the disk: writing to one without ends the process.

    OSError where there is no room.
    """
    with replacing(path) as temporary:
        np.lib.format.open_memmap(temporary, mode="w+", dtype=dtype, shape=shape)
        if hasattr(os, "posix_fallocate"):
            with temporary.open("r+b") as file:
                os.posix_fallocate(file.fileno(), 0, temporary.stat().st_size)
    return np.lib.format.open_memmap(path, mode="r+")


def _without(path: Path, images: np.ndarray, left_out: Container[int]) -> None:
    """Write an array without some of its rows into a file, some at a time."""
    kept = np.array([place for place in range(len(images)) if place not in left_out])
    fewer = _new_array(path, np.uint8, (len(kept), *images.shape[1:]))
    for first in range(0, len(kept), ROWS_AT_ONCE):
        fewer[first : first + ROWS_AT_ONCE] = images[kept[first : first + ROWS_AT_ONCE]]
    fewer.flush()


def _read(folder: Path, key: str) -> Prepared:
    """What `_decode` wrote; ValueError or another error where it is damaged."""
    images = np.load(folder / IMAGES, mmap_mode="c")
    lines = JsonLines(folder / ROWS)
    for line in lines:
        _, problem = checked(line)
        if problem or not isinstance(line.get("file_name", ""), str):
            raise ValueError(f"{ROWS} has a row that {problem or 'names no file'}")
    rows = together(lines)
    left_out = json.loads((folder / LEFT_OUT).read_text(encoding="utf-8"))
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1] != images.shape[2] or images.shape[3] != 3:
        raise ValueError(f"{IMAGES} holds {images.dtype} {images.shape}")
    if len(images) != len(rows):
        raise ValueError("images and rows differ in number")
    return Prepared(torch.from_numpy(images), rows, key, left_out)

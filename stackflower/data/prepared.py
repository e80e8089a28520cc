"""Prepared form of a split: images decoded once to square uint8 and memory-mapped, with their captions.

It is kept in a cache folder (``STACKFLOWER_CACHE``, by default ``~/.cache/stackflower``) under a key of the data's
content and the settings, is written atomically, and can be deleted at any time.
"""

from __future__ import annotations

import hashlib
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
from stackflower.data.rows.checks import build_rows, check_row
from stackflower.data.source import Rows, Source
from stackflower.errors import DataError
from stackflower.utils.atomic import RESUME_ADVICE, replacing, reporting_write_errors, write_text
from stackflower.utils.cache import compute_key, make_cache_folder, reporting_cache_errors
from stackflower.utils.progress import Progress, progress_bar

IMAGES, ROWS, LEFT_OUT, KEY, DIGEST = "images.npy", "rows.jsonl", "left-out.json", "key.json", "digest.json"
DONE, KEPT = "done.npy", "kept.npy"  # during preparation: which images are finished, and the images without bad ones
ROWS_PER_BLOCK = 4096
# what reading a damaged file may raise
DAMAGE = (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError)


@dataclass
class Prepared:
    """One prepared split.

    Attributes:
        images: square images, uint8 (N, S, S, 3), memory-mapped.
        rows: captions, labels and attributes.
        key: key of the source, the split and the size, which finds the split in the cache. It depends on the times of
            files.
        digest: hash of the pixels and rows, which is the same for a copy of the data.
        left_out: a sentence for each row or image that can't be used.
    """

    images: Tensor
    rows: Rows
    key: str
    digest: str = ""
    left_out: list[str] = field(default_factory=list)

    @property
    def captions(self) -> Sequence[list[str]]:
        """Captions of each image."""
        return self.rows.captions

    @property
    def labels(self) -> Tensor | None:
        """Labels, int64 (N,), or None."""
        return None if self.rows.labels is None else torch.tensor(self.rows.labels)

    def classes(self) -> Tensor:
        """Return the class of each image, int64 (N,), for the choice of negative captions.

        Without labels, images with the same set of captions (such as tags) form a class, because their captions can't
        be negatives of one another.
        """
        if self.labels is not None:
            return self.labels
        numbers: dict[frozenset[str], int] = {}
        return torch.tensor([numbers.setdefault(frozenset(captions), len(numbers)) for captions in self.captions])

    def flatten_captions(self) -> list[str]:
        """Return all captions, image by image, in the order of the rows of an embedding table."""
        return [caption for captions in self.rows.captions for caption in captions]

    def crop_centre(self, resolution: int, index: Tensor | slice = slice(None)) -> Tensor:
        """Crop the images to their central `resolution` pixels R, uint8 (n, 3, R, R), as scores compare them."""
        edge = (self.images.shape[1] - resolution) // 2
        return self.images[index, edge : edge + resolution, edge : edge + resolution].permute(0, 3, 1, 2)


def prepare(source: Source, split: str, size: int, jobs: int | None = None) -> Prepared:
    """Open the prepared form of a split, and prepare it if it is not in the cache. An interrupted preparation resumes.

    Args:
        source: the data set.
        split: name of the split.
        size: height and width of the images.
        jobs: number of threads or processes. Default: one per core.

    Raises:
        DataError: the data have no such split or can't be read, or the cache can't be written.
    """
    if split not in source.splits():
        raise DataError(f"The data have no split {split!r}; choose one of {', '.join(source.splits())}.")
    key = _compute_key(source, split, size)
    existing = source.prepared_folder(split, size)
    if existing is not None:
        return open_prepared(existing, key)
    folder = make_cache_folder("prepared") / key
    if (prepared := _open_cached(folder, key)) is not None:
        return prepared
    with reporting_cache_errors(folder.parent):
        return _make(source, split, size, folder, key, jobs)


def prepare_into(source: Source, split: str, size: int, folder: Path, jobs: int | None = None) -> Prepared:
    """Prepare a split in a folder that the user chose, or open it if it is there (see `prepare`).

    Args:
        source: the data set.
        split: name of the split.
        size: height and width of the images.
        folder: folder of the split.
        jobs: number of threads or processes. Default: one per core.

    Raises:
        DataError: the folder holds other data or can't be written, or the data can't be read.
    """
    key = _compute_key(source, split, size)
    if _holds_data(folder, key):
        return open_prepared(folder, key)
    with reporting_write_errors(folder, DataError, RESUME_ADVICE):
        return _make(source, split, size, folder, key, jobs)


def _holds_data(folder: Path, key: str) -> bool:
    """Return whether a folder holds the split with this key.

    Raises:
        DataError: the folder holds other data.
    """
    if not (folder / ROWS).exists():
        return False
    if (folder / KEY).exists() and (folder / KEY).read_text(encoding="utf-8") == json.dumps(key):
        return True
    raise DataError(f"{folder} holds other data, or data of another size; choose a new folder, or delete this one.")


def _compute_key(source: Source, split: str, size: int) -> str:
    """Compute the key of a prepared split.

    Raises:
        DataError: the data can't be prepared at this size.
    """
    least, most = source.sizes
    if not least <= size <= most:
        raise DataError(
            f"{source.title()} can be prepared at {least} to {most:,} px, not at {size}; choose another `size`."
        )
    return compute_key(type(source).__name__, source.fingerprint(split), split, size)


def open_prepared(folder: Path, key: str) -> Prepared:
    """Open the prepared split in a folder.

    Raises:
        DataError: the folder is damaged.
    """
    try:
        return _read(folder, key)
    except DAMAGE as error:
        raise build_damage_error(folder, error) from error


def build_damage_error(folder: Path, error: Exception) -> DataError:
    """Build the error for a prepared folder that can't be read."""
    return DataError(f"{folder} is damaged ({error}); prepare the data again.")


def _open_cached(folder: Path, key: str) -> Prepared | None:
    """Open a split from the cache; return None, and remove the folder, if it can't be read."""
    if not (folder / ROWS).exists():
        return None
    with suppress(*DAMAGE):
        return _read(folder, key)
    shutil.rmtree(folder, ignore_errors=True)  # it is damaged, or another version wrote it
    return None


def _make(source: Source, split: str, size: int, folder: Path, key: str, jobs: int | None) -> Prepared:
    """Prepare a split in a folder, in one process at a time."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(make_cache_folder("prepared") / f".{compute_key(str(folder.resolve()))}.lock"):
        # Another process may have prepared the split while this one waited.
        prepared = _open_cached(folder, key) if _holds_data(folder, key) else None
        return prepared or _decode(source, split, size, folder, key, jobs)


def _decode(source: Source, split: str, size: int, folder: Path, key: str, jobs: int | None) -> Prepared:
    """Decode a split into a temporary folder, or resume that, and rename the folder at the end."""
    rows = source.rows(split)
    partial = folder.with_name(f".{folder.name}-{key}")
    partial.mkdir(exist_ok=True)
    done_file, images_file = (
        (partial / DONE, np.bool_, (len(rows),)),
        (partial / IMAGES, np.uint8, (len(rows), size, size, 3)),
    )
    done, images = _open_array(*done_file), _open_array(*images_file)
    if done is None or images is None:
        # Neither is of use without the other. `done` is created first: it must not mark images of a new file as done.
        done, images = _create_array(*done_file), _create_array(*images_file)
    with progress_bar(f"preparing {split} ({len(rows):,} images at {size} px)", len(rows)) as progress:
        bad = source.fill(split, images, _free_written_pages(images, progress), done, jobs)
    left_out = [*source.left_out(split), *(bad[position] for position in sorted(bad))]
    if bad:
        _write_kept(partial / KEPT, images, bad)
    images.flush()
    write_text(partial / LEFT_OUT, json.dumps(left_out))
    write_text(partial / KEY, json.dumps(key))
    write_json_lines(partial / ROWS, (rows.row(number) for number in range(len(rows)) if number not in bad))
    if bad:
        (partial / KEPT).replace(partial / IMAGES)
    write_text(partial / DIGEST, json.dumps(_compute_digest(partial)))
    (partial / DONE).unlink()
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)
    for other in folder.parent.glob(f".{folder.name}-*"):  # of commands that failed and won't be resumed
        if is_partial(other, folder.name):
            shutil.rmtree(other, ignore_errors=True)
    return _read(folder, key)


def _compute_digest(folder: Path) -> str:
    """Compute the hash of the pixels and rows in a folder."""
    digests = []
    for name in (IMAGES, ROWS):
        with (folder / name).open("rb") as file:
            digests.append(hashlib.file_digest(file, "sha256").hexdigest())
    return compute_key(*digests)


def _free_written_pages(images: np.memmap[Any, Any], progress: Progress) -> Progress:
    """Wrap `progress` to release the memory of written images, which are in the file, from time to time."""
    written = 0

    def advance(count: int) -> None:
        nonlocal written
        written += count
        if written >= ROWS_PER_BLOCK and hasattr(mmap, "MADV_DONTNEED"):
            written = 0
            images.base.madvise(mmap.MADV_DONTNEED)  # type: ignore[union-attr]
        progress(count)

    return advance


def is_partial(path: Path, split: str) -> bool:
    """Return whether a folder is left over from an interrupted preparation of a split."""
    return re.fullmatch(rf"\.{split}-[0-9a-f]{{24}}", path.name) is not None


def _open_array(path: Path, dtype: type, shape: tuple[int, ...]) -> np.memmap[Any, Any] | None:
    """Open the array that an earlier process left in a file; return None if it is missing or of another form."""
    with suppress(OSError, ValueError, EOFError):
        array = np.lib.format.open_memmap(path, mode="r+")
        if array.dtype == dtype and array.shape == shape:
            return array
    return None


def _create_array(path: Path, dtype: type, shape: tuple[int, ...]) -> np.memmap[Any, Any]:
    """Create an array of zeros in a file, with all its disk space: running out of space later would kill the process.

    Raises:
        OSError: the disk is full.
    """
    with replacing(path) as temporary:
        np.lib.format.open_memmap(temporary, mode="w+", dtype=dtype, shape=shape)
        if hasattr(os, "posix_fallocate"):
            with temporary.open("r+b") as file:
                os.posix_fallocate(file.fileno(), 0, temporary.stat().st_size)
    return np.lib.format.open_memmap(path, mode="r+")


def _write_kept(path: Path, images: np.ndarray, left_out: Container[int]) -> None:
    """Write the images that are not left out to a file, block by block."""
    kept = np.array([position for position in range(len(images)) if position not in left_out])
    kept_images = _create_array(path, np.uint8, (len(kept), *images.shape[1:]))
    for first in range(0, len(kept), ROWS_PER_BLOCK):
        kept_images[first : first + ROWS_PER_BLOCK] = images[kept[first : first + ROWS_PER_BLOCK]]
    kept_images.flush()


def _read(folder: Path, key: str) -> Prepared:
    """Read a folder that `_decode` wrote.

    Raises:
        Exception: one of `DAMAGE`, if the folder is damaged.
    """
    images = np.load(folder / IMAGES, mmap_mode="c")
    lines = JsonLines(folder / ROWS)
    uncaptioned = 0
    for line in lines:
        uncaptioned += line.get("text") == []
        _, problem = check_row(line, needs_caption=line.get("text") != [])
        if problem or not isinstance(line.get("file_name", ""), str):
            raise ValueError(f"{ROWS} has a row that {problem or 'does not name its file'}")
    if 0 < uncaptioned < len(lines):
        raise ValueError(f"{ROWS} has a row that has no caption")
    rows = build_rows(lines)
    left_out, digest = (json.loads((folder / name).read_text(encoding="utf-8")) for name in (LEFT_OUT, DIGEST))
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1] != images.shape[2] or images.shape[3] != 3:
        raise ValueError(f"{IMAGES} holds {images.dtype} {images.shape}")
    if len(images) != len(rows):
        raise ValueError("images and rows differ in number")
    return Prepared(torch.from_numpy(images), rows, key, str(digest), left_out)

"""Streaming of WebDataset shards: samples are read during training, without preparation and in little memory."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import zlib
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from stackflower.data.images import load_square
from stackflower.data.remote import fetch_file, is_remote, list_matches, local_copy
from stackflower.data.rows.checks import join_problems
from stackflower.data.shard_locations import get_file_name
from stackflower.data.sources.shards import TEXT_SUFFIXES, USUAL_KEYS, Keys, Sample, ShardSource, read_row, read_samples
from stackflower.errors import DataError
from stackflower.options import Count, Natural
from stackflower.registry import register
from stackflower.utils.atomic import replacing, write_text
from stackflower.utils.cache import compute_key, make_cache_folder
from stackflower.utils.open_files import choose_open_count, explain_read_error
from stackflower.utils.progress import progress_bar

INDEX = "index.json"  # beside remote shards: the number of samples of each, so that no shard has to be fetched
MAX_OPEN = 64  # shards kept open
FILES_PER_SHARD = 2  # the shard and its index
ABSENT = -1  # offset of a file that a sample does not have


@dataclass(frozen=True)
class ShardIndex:
    """Index of the samples in a shard.

    Attributes:
        places: offset and size, in bytes, of the image and of the files with `TEXT_SUFFIXES` of each sample, (n, 8).
        faults: sentences about samples that can't be used, which are not in `places`.
    """

    places: np.ndarray
    faults: list[str]


def load_index(location: str, keys: Keys = USUAL_KEYS) -> ShardIndex:
    """Load the index of a shard from the cache, or read the shard and save its index there.

    Args:
        location: path or URL of the shard.
        keys: keys of the JSON files.

    Raises:
        DataError: the file can't be read or is not a tar file.
    """
    with local_copy(location) as path:
        try:
            status = path.stat()
        except OSError as error:
            raise DataError(f"{location} can't be read: {error.strerror}.") from error
        stamp = path.name if is_remote(location) else (str(path.resolve()), status.st_mtime_ns)
        cached = make_cache_folder("shard-index") / f"{compute_key(stamp, status.st_size, keys, TEXT_SUFFIXES)}.npy"
        with suppress(OSError, ValueError):
            places = np.load(cached, mmap_mode="r")
            return ShardIndex(places, json.loads(cached.with_suffix(".json").read_text(encoding="utf-8")))
        rows, problems, bad = [], list[str](), list[str]()
        for sample in read_samples(path, problems, keys):
            if sample.problem:
                bad.append(f"{path / sample.key} {sample.problem}.")
            else:
                texts = [sample.texts.get(suffix) for suffix in TEXT_SUFFIXES]
                rows.append([part for place in (sample.image, *texts) for part in place or (ABSENT, 0)])
    index = ShardIndex(np.array(rows, dtype=np.int64).reshape(-1, 2 + 2 * len(TEXT_SUFFIXES)), [*problems, *bad])
    write_text(cached.with_suffix(".json"), json.dumps(index.faults))
    with replacing(cached) as temporary:
        np.save(temporary, index.places)
    return index


class ShardReader:
    """Reader of samples by their numbers, which is cheap to send to another process.

    Args:
        locations: locations of the shards.
        counts: number of usable samples of each shard.
        keys: keys of the JSON files.
    """

    def __init__(self, locations: Sequence[str], counts: Sequence[int], keys: Keys = USUAL_KEYS):
        self.locations, self.counts, self.keys = list(locations), list(counts), keys
        self._open: OrderedDict[int, tuple[BinaryIO, np.ndarray]] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_open": OrderedDict()}

    def _open_shard(self, number: int) -> tuple[BinaryIO, np.ndarray]:
        """Return the file of a shard, which stays open, and where its samples are."""
        if number in self._open:
            self._open.move_to_end(number)
            return self._open[number]
        location = self.locations[number]
        limit = choose_open_count(FILES_PER_SHARD * MAX_OPEN, FILES_PER_SHARD * len(self._open)) // FILES_PER_SHARD
        while len(self._open) >= max(1, limit):
            self._open.popitem(last=False)[1][0].close()
        try:
            index = load_index(location, self.keys)
        except OSError as error:
            raise DataError(f"{location} can't be read: {explain_read_error(error)}.") from error
        if len(index.places) != self.counts[number]:
            fault = f" {index.faults[0]}" if index.faults else ""
            raise DataError(
                f"{location} has {len(index.places):,} usable samples, but {self.counts[number]:,} were counted (in "
                f"{INDEX} or at the start of the training).{fault} Repair it, or delete {INDEX}."
            )
        try:
            with local_copy(location) as path:
                self._open[number] = path.open("rb"), index.places
        except OSError as error:
            raise DataError(f"{location} can't be read: {explain_read_error(error)}.") from error
        return self._open[number]

    def row(self, shard: int, sample: int) -> dict[str, Any]:
        """Read and check the row of a sample.

        Raises:
            DataError: the sample has changed since it was counted.
        """
        file, places = self._open_shard(shard)
        pairs = places[sample].reshape(-1, 2).tolist()
        texts = {
            suffix: (at, size) for suffix, (at, size) in zip(TEXT_SUFFIXES, pairs[1:], strict=True) if at != ABSENT
        }
        content = Sample("", (0, 0), texts)
        read_row(content, file, self.keys)
        if content.problem:
            raise DataError(
                f"{self.locations[shard]}: sample {sample} {content.problem}; it has changed since the training began."
            )
        if isinstance(label := content.row.get("label"), str):  # names can't be numbered without reading all shards
            content.row["label"] = zlib.crc32(label.encode("utf-8", "replace")) >> 1
        return content.row

    def image(self, shard: int, sample: int, size: int) -> np.ndarray:
        """Read and decode the image of a sample, uint8 (size, size, 3).

        Raises:
            DataError: the image can't be read.
        """
        file, places = self._open_shard(shard)
        offset, length = places[sample, :2].tolist()
        file.seek(offset)
        where = Path(get_file_name(self.locations[shard])) / f"sample {sample}"
        return load_square(where, size, content=file.read(length))


@register("data", "stream")
class ShardStream(ShardSource):
    """Streamed WebDataset shards, decoded by worker processes during training.

    Samples are shuffled in windows, and each is used once per epoch, whatever the number of processes. ``data`` streams
    a pattern or a URL, and prepares a folder of shards; text encoders that are trained on the captions need a prepared
    folder.

    Args:
        path: folder, or pattern such as ``shards/train-{000000..000999}.tar``, on disk or at a URL that fsspec reads.
        window: number of samples that are shuffled together, in each of up to eight parts of a batch. The order of the
            shards is shuffled, too.
        workers: number of processes that decode. Default: one less than the cores per training process, from 1 to 8.
            With 0, the training process decodes.
    """

    layout = "a stream of WebDataset shards"
    precedence = -100  # a folder of shards is prepared

    def __init__(
        self,
        *,
        path: str,
        text_column: str | None = None,
        label_column: str | None = None,
        window: Count = 2048,
        workers: Natural | None = None,
        skip_bad: bool = False,
        follow_links: bool = False,
    ):
        super().__init__(
            path=path, text_column=text_column, label_column=label_column, skip_bad=skip_bad, follow_links=follow_links
        )
        self.window, self.workers = window, workers
        self._counts: dict[str, list[int]] = {}
        self._faults: list[str] = []
        self._digest = hashlib.blake2b(digest_size=16)  # of the places of samples, for shards that were indexed

    @classmethod
    def recognises(cls, files: Any) -> bool:
        return False

    def reader(self, split: str) -> ShardReader:
        """Create a reader of the samples of a split."""
        return ShardReader(self.shards[split], self.count(split), self.keys)

    def count(self, split: str) -> list[int]:
        """Count the usable samples of each shard.

        Shards on disk are indexed once, on all cores. At a URL, an ``index.json`` beside the shards gives the counts;
        without it, all shards are fetched.

        Raises:
            DataError: a list of everything that can't be used, unless `skip_bad` is set.
        """
        if split not in self._counts:
            locations = self.shards[split]
            counts = self._read_counts(locations)
            self._counts[split] = counts if counts is not None else self._count_samples(split, locations)
            if not sum(self._counts[split]):
                raise DataError(f"The shards of {self.location} ({split}) hold no usable images.")
        return self._counts[split]

    def _read_counts(self, locations: list[str]) -> list[int] | None:
        """Read the number of samples of each shard from the index beside remote shards; None without an index."""
        if not is_remote(locations[0]):
            return None
        counts: dict[str, Any] = {}
        for folder in {location.rpartition("/")[0] for location in locations}:
            index_file = f"{folder}/{INDEX}"
            if not list_matches(index_file):
                return None
            try:
                index = json.loads(fetch_file(index_file).read_text(encoding="utf-8"))
                shards = [location for location in locations if location.rpartition("/")[0] == folder]
                counts |= {shard: _parse_count(index[get_file_name(shard)]["samples"]) for shard in shards}
            except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
                raise DataError(
                    f"{index_file} does not give the number of samples of every shard ({error!r}); write it with "
                    "`stackflower data shard`."
                ) from error
        return [counts[location] for location in locations]

    def _count_samples(self, split: str, locations: list[str]) -> list[int]:
        """Index every shard and count its samples."""
        counts, faults = [], []
        with progress_bar(f"indexing {len(locations):,} shards of {split}", len(locations)) as progress:
            for index in _load_indexes(locations, self.keys):
                counts.append(len(index.places))
                self._digest.update(index.places.tobytes())
                faults += index.faults
                progress(1)
        self._faults = faults
        if faults and not self.skip_bad:
            raise DataError(
                f"{self.location} can't be used:\n{join_problems(faults)}\n"
                f"`stackflower data check {self.location}` lists all problems; `data.skip_bad=true` leaves such "
                "samples out."
            )
        return counts

    def stream_warnings(self) -> list[str]:
        """Return warnings about the samples that were counted, and about shards that are not read."""
        faults = [f"{len(self._faults):,} samples are left out. The first: {self._faults[0]}"] if self._faults else []
        return [*faults, *self.list_unread_shards()]

    def stream_key(self, split: str) -> str:
        """Compute a key of everything that the stream depends on.

        That is the shards, where their samples lie (as far as they were indexed), and the window.
        """
        names = [get_file_name(location) for location in self.shards[split]]
        return compute_key(names, self._counts[split], self._digest.hexdigest(), self.window)

    def describe(self) -> str:
        return f"Data: {self.title()} is {self.layout}, {len(self.shards['train']):,} for training."


def _parse_count(value: object) -> int:
    """Check that a value is a number of samples.

    Raises:
        ValueError: it is not.
    """
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**40:
        raise ValueError(f"samples {value!r}")
    return value


def _load_indexes(locations: list[str], keys: Keys) -> Any:
    """Yield the index of each shard, in order."""
    processes = min(os.cpu_count() or 1, len(locations) // 4)
    if processes < 2:
        yield from (load_index(location, keys) for location in locations)
        return
    with ProcessPoolExecutor(processes) as pool:
        yield from pool.map(load_index, locations, itertools.repeat(keys), chunksize=2)

"""WebDataset shards that are read while a run trains: nothing is prepared, and only what is being read is in memory."""

from __future__ import annotations

import hashlib
import json
import os
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
from stackflower.data.rows import join_problems
from stackflower.data.shard_locations import get_file_name
from stackflower.data.sources.shards import Sample, ShardSource, read_row, read_shard
from stackflower.errors import DataError
from stackflower.options import Count, Natural
from stackflower.registry import register
from stackflower.utils.atomic import replacing, write_text
from stackflower.utils.cache import compute_key, make_cache_folder
from stackflower.utils.progress import progress_bar

INDEX = "index.json"  # beside shards: how many samples each has, so that none need be fetched to be counted
MAX_OPEN = 64  # shards that are kept open
ABSENT = -1  # offset of what a sample does not have


@dataclass(frozen=True)
class ShardIndex:
    """Where the samples of a shard lie: (n, 6) offset and size in bytes of the image, the JSON file and the text file
    of each.
    """

    places: np.ndarray
    faults: list[str]


def load_index(location: str) -> ShardIndex:
    """The samples of a shard that can be used, from the cache if it is there.

    DataError for a file that is not a tar file.
    """
    with local_copy(location) as path:
        try:
            status = path.stat()
        except OSError as error:
            raise DataError(f"{location} can't be read: {error.strerror}.") from error
        stamp = path.name if is_remote(location) else (str(path.resolve()), status.st_mtime_ns)
        cached = make_cache_folder("shard-index") / f"{compute_key(stamp, status.st_size)}.npy"
        with suppress(OSError, ValueError):
            places = np.load(cached, mmap_mode="r")
            return ShardIndex(places, json.loads(cached.with_suffix(".json").read_text(encoding="utf-8")))
        shard = read_shard(path)
    rows = [
        [
            *(one.image or (ABSENT, 0)),
            *one.texts.get(".json", (ABSENT, 0)),
            *one.texts.get(".txt", (ABSENT, 0)),
        ]
        for one in shard.samples
        if not one.problem
    ]
    places = np.array(rows, dtype=np.int64).reshape(-1, 6)
    write_text(cached.with_suffix(".json"), json.dumps(shard.faults))
    with replacing(cached) as temporary:
        np.save(temporary, places)
    return ShardIndex(places, shard.faults)


class ShardReader:
    """Samples of shards by number. Cheap to send to another process.

    Args:
        locations: of the shards.
        counts: samples of each that can be used, as they were counted.
    """

    def __init__(self, locations: Sequence[str], counts: Sequence[int]):
        self.locations, self.counts = list(locations), list(counts)
        self._open: OrderedDict[int, tuple[BinaryIO, np.ndarray]] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_open": OrderedDict()}

    def _shard(self, number: int) -> tuple[BinaryIO, np.ndarray]:
        if number in self._open:
            self._open.move_to_end(number)
            return self._open[number]
        location = self.locations[number]
        index = load_index(location)
        if len(index.places) != self.counts[number]:
            fault = f" {index.faults[0]}" if index.faults else ""
            raise DataError(
                f"{location} has {len(index.places):,} samples that can be used, and {self.counts[number]:,} were "
                f"counted, by {INDEX} or when the training began.{fault} Mend it, or delete {INDEX}."
            )
        try:
            with local_copy(location) as path:
                self._open[number] = path.open("rb"), index.places
        except OSError as error:
            raise DataError(f"{location} can't be read: {error.strerror}.") from error
        if len(self._open) > MAX_OPEN:
            self._open.popitem(last=False)[1][0].close()
        return self._open[number]

    def row(self, shard: int, sample: int) -> dict[str, Any]:
        """The row of a sample, checked. DataError for one that has changed since it was counted."""
        file, places = self._shard(shard)
        _, _, json_at, json_size, text_at, text_size = places[sample].tolist()
        texts = {".json": (json_at, json_size), ".txt": (text_at, text_size)}
        one = Sample("", (0, 0), {suffix: place for suffix, place in texts.items() if place[0] != ABSENT})
        read_row(one, file)
        if one.problem:
            raise DataError(
                f"{self.locations[shard]}: sample {sample} {one.problem}; it has changed since the training began."
            )
        return one.row

    def image(self, shard: int, sample: int, size: int) -> np.ndarray:
        """The image of a sample, uint8 (size, size, 3). DataError for one that can't be read."""
        file, places = self._shard(shard)
        offset, length = places[sample, :2].tolist()
        file.seek(offset)
        where = Path(get_file_name(self.locations[shard])) / f"sample {sample}"
        return load_square(where, size, content=file.read(length))


@register("data", "stream")
class ShardStream(ShardSource):
    """WebDataset shards that are streamed: decoded in worker processes while the run trains, shuffled in windows, each
    sample once a pass, whatever the number of processes. ``data`` with a pattern or a URL streams, and with a folder of
    shards prepares; text encoders that are trained on the captions need the latter.

    Args:
        path: a folder, or a pattern such as ``shards/train-{000000..000999}.tar``, on disk or at a URL that fsspec
            reads.
        window: samples that are shuffled together, in each of up to eight parts of a batch; the order of the shards is
            shuffled too.
        workers: processes that decode; None: one less than there are cores for each training process, at least 1 and at
            most 8. 0: none but the training's.
    """

    layout = "a stream of WebDataset shards"
    precedence = -100  # a folder of shards is prepared

    def __init__(
        self,
        *,
        path: str,
        window: Count = 2048,
        workers: Natural | None = None,
        skip_bad: bool = False,
        follow_links: bool = False,
    ):
        super().__init__(path=path, skip_bad=skip_bad, follow_links=follow_links)
        self.window, self.workers = window, workers
        self._counts: dict[str, list[int]] = {}
        self._faults: list[str] = []
        self._digest = hashlib.blake2b(digest_size=16)  # of where the samples lie, of shards that were looked at

    @classmethod
    def recognises(cls, files: Any) -> bool:
        return False

    def reader(self, split: str) -> ShardReader:
        """Reads samples of a split."""
        return ShardReader(self.shards[split], self.count(split))

    def count(self, split: str) -> list[int]:
        """Samples of each shard that can be used. Shards on disk are looked through once, on all cores; at a URL,
        ``index.json`` beside them tells, or else each is fetched. DataError lists what can't be used, unless
        `skip_bad`.
        """
        if split not in self._counts:
            locations = self.shards[split]
            counts = self._read_counts(locations)
            self._counts[split] = counts if counts is not None else self._count_samples(split, locations)
            if not sum(self._counts[split]):
                raise DataError(f"The shards of {self.location} ({split}) hold no images that can be used.")
        return self._counts[split]

    def _read_counts(self, locations: list[str]) -> list[int] | None:
        """Read the samples of each shard from the index beside remote shards; None without one."""
        if not is_remote(locations[0]):
            return None
        counts: dict[str, Any] = {}
        for folder in {location.rpartition("/")[0] for location in locations}:
            beside = f"{folder}/{INDEX}"
            if not list_matches(beside):
                return None
            try:
                about = json.loads(fetch_file(beside).read_text(encoding="utf-8"))
                shards = [location for location in locations if location.rpartition("/")[0] == folder]
                counts |= {shard: _parse_count(about[get_file_name(shard)]["samples"]) for shard in shards}
            except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
                raise DataError(
                    f"{beside} does not give the samples of every shard ({error!r}); write it by "
                    "`stackflower data shard`."
                ) from error
        return [counts[location] for location in locations]

    def _count_samples(self, split: str, locations: list[str]) -> list[int]:
        """Index every shard, and count its samples."""
        counts, faults = [], []
        with progress_bar(f"indexing {len(locations):,} shards of {split}", len(locations)) as progress:
            for index in _load_indexes(locations):
                counts.append(len(index.places))
                self._digest.update(index.places.tobytes())
                faults += index.faults
                progress(1)
        self._faults = faults
        if faults and not self.skip_bad:
            raise DataError(
                f"{self.location} can't be used as it is:\n{join_problems(faults)}\n"
                f"`stackflower data check {self.location}` lists everything; `data.skip_bad=true` leaves such samples "
                "out."
            )
        return counts

    def stream_warnings(self) -> list[str]:
        """What a user should know of what was counted."""
        return [f"{len(self._faults):,} samples are left out, the first: {self._faults[0]}"] if self._faults else []

    def stream_key(self, split: str) -> str:
        """What the stream depends on: the shards and where their samples lie, as far as they were looked at, and the
        window.
        """
        names = [get_file_name(one) for one in self.shards[split]]
        return compute_key(names, self._counts[split], self._digest.hexdigest(), self.window)

    def describe(self) -> str:
        return f"Data: {self.title()} is {self.layout}, {len(self.shards['train']):,} for training."


def _parse_count(value: object) -> int:
    """A number of samples. ValueError for anything else."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**40:
        raise ValueError(f"samples {value!r}")
    return value


def _load_indexes(locations: list[str]) -> Any:
    """Yield the index of each shard, in order."""
    processes = min(os.cpu_count() or 1, len(locations) // 4)
    if processes < 2:
        yield from map(load_index, locations)
        return
    with ProcessPoolExecutor(processes) as pool:
        yield from pool.map(load_index, locations, chunksize=2)

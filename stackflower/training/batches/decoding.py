"""Worker processes that decode the batches of a stream ahead of the training."""

from __future__ import annotations

import copy
import hashlib
import os
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from stackflower.data.sources.stream import ShardReader
from stackflower.errors import DataError
from stackflower.training.batches.order import StreamOrder
from stackflower.utils.rng import create_rng

AHEAD = 4  # batches that each worker decodes ahead
MOST_WORKERS = 8
TRIES = 100  # neighbours of a damaged image


@dataclass
class Decoded:
    """One process's rows of a batch."""

    first: int  # number of the batch's first image
    images: np.ndarray  # uint8 (n, S, S, 3)
    captions: list[list[str]]  # drawn captions of each row; none where they are embedded
    embedding: np.ndarray | None  # (n, T) mean embeddings of the drawn captions, if the encoder runs in the worker
    numbers: np.ndarray  # (2, n) int64: class (or code of the text where it has none), and code of the drawn text
    codes: np.ndarray  # (n, most) int64: codes of all texts of each row, -1 where it has fewer
    notes: list[str]  # one sentence per image that was replaced by another


@dataclass(frozen=True)
class CaptionDraws:
    """How captions are drawn, and embedded where the encoder needs no accelerator.

    Args:
        seed: seed of the draws.
        averaged: number of captions drawn per image.
        encode: embeds captions as (N, T) in the worker; None: they are embedded on the training's device.
    """

    seed: int
    averaged: int = 1
    encode: Callable[[Sequence[str]], Tensor] | None = None

    def draw(self, first: int, total: int, rows: range, texts: Sequence[Sequence[str]]) -> list[list[str]]:
        """Draw different captions for each of `rows`, all where it has fewer; the same in every process."""
        draws = torch.rand(total, self.averaged, generator=create_rng(self.seed, 5, first)).tolist()
        return [_draw_captions(captions, draws[place]) for place, captions in zip(rows, texts, strict=True)]


def _draw_captions(captions: Sequence[str], draws: Sequence[float]) -> list[str]:
    left = list(captions)
    return [left.pop(int(draw * len(left))) for draw in draws[: len(captions)]]


def compute_mean_embedding(captions: Sequence[Sequence[str]], encode: Callable[[Sequence[str]], Tensor]) -> Tensor:
    """Compute the mean embeddings (n, T) of some captions for each of n images."""
    counts = [len(captions_of_image) for captions_of_image in captions]
    flat = encode([caption for captions_of_image in captions for caption in captions_of_image])
    if all(count == 1 for count in counts):
        return flat
    return torch.stack([part.mean(0) for part in flat.split(counts)])


def _hash_caption(caption: str) -> int:
    """Hash a caption to a number that differs from those of other captions and of classes."""
    return int.from_bytes(hashlib.blake2b(caption.encode(), digest_size=8).digest(), "little") >> 2 | 1 << 61


def _hash_captions(texts: Sequence[Sequence[str]]) -> np.ndarray:
    """Return the codes (n, most) of the captions of n images, padded with -1."""
    most = max(map(len, texts))
    padded = [[*map(_hash_caption, captions), *[-1] * (most - len(captions))] for captions in texts]
    return np.array(padded, dtype=np.int64)


def number_texts(rows: Sequence[dict[str, Any]], captions: Sequence[Sequence[str]]) -> np.ndarray:
    """Return the classes (or codes of the texts, where rows have none) and codes of the drawn texts, (2, n) int64."""
    codes = [_hash_caption(captions_of_image[0]) for captions_of_image in captions]
    labels = [row.get("label", code) for row, code in zip(rows, codes, strict=True)]
    return np.array([labels, codes], dtype=np.int64)


class _Rows(Dataset[Any]):
    """Batches by the number of their first image; a sentence in place of one that can't be read."""

    def __init__(
        self, reader: ShardReader, order: StreamOrder, captions: CaptionDraws, rows: range, size: int, skip_bad: bool
    ):
        self.reader, self.order, self.captions = reader, order, captions
        self.rows, self.size, self.skip_bad = rows, size, skip_bad

    def __getitem__(self, first: int) -> Decoded | str:
        try:
            return self._decode(first)
        except DataError as error:  # as a value: the loader would wrap it in a traceback
            return str(error)

    def _decode(self, first: int) -> Decoded:
        images = np.empty((len(self.rows), self.size, self.size, 3), np.uint8)
        rows, notes = list[dict[str, Any]](), list[str]()
        for place, (shard, sample) in enumerate(zip(*self.order(first, self.rows), strict=True)):
            sample, images[place] = self._read_image(int(shard), int(sample), notes)
            rows.append(self.reader.row(int(shard), sample))
        captions = self.captions.draw(first, self.order.batch, self.rows, [row["text"] for row in rows])
        numbers, codes = number_texts(rows, captions), _hash_captions([row["text"] for row in rows])
        if self.captions.encode is None:
            return Decoded(first, images, captions, None, numbers, codes, notes)
        embedding = compute_mean_embedding(captions, self.captions.encode).numpy()
        return Decoded(first, images, [], embedding, numbers, codes, notes)

    def _read_image(self, shard: int, sample: int, notes: list[str]) -> tuple[int, np.ndarray]:
        """Read a sample's image; with `skip_bad`, the next one of the shard that can be read."""
        count = int(self.order.counts[shard])
        for step in range(min(count, TRIES)):
            chosen = (sample + step) % count
            try:
                return chosen, self.reader.image(shard, chosen, self.size)
            except DataError as error:
                if not self.skip_bad:
                    raise DataError(
                        f"{error} Repair it, or train on the next image of the shard instead with `data.skip_bad=true`."
                    ) from error
                notes.append(str(error))
        raise DataError(f"{notes[-1]} The {min(count, TRIES)} images after it can't be read either.")


class _Firsts(Sampler[int]):
    """Endless numbers of the first images of batches."""

    def __init__(self, first: int, step: int):
        self.first, self.step = first, step

    def __iter__(self) -> Iterator[int]:
        while True:
            yield self.first
            self.first += self.step


class Decoder:
    """A process's rows of batches, decoded ahead.

    Args:
        reader: reads the shards.
        order: order of the samples.
        captions: how captions are drawn.
        size: px of the images.
        workers: worker processes; None: one less than the cores per training process, from 1 to `MOST_WORKERS`.
        skip_bad: replace an image that can't be read by the next one of the shard.
        processes: training processes on this machine.
    """

    def __init__(
        self,
        reader: ShardReader,
        order: StreamOrder,
        captions: CaptionDraws,
        size: int,
        workers: int | None = None,
        skip_bad: bool = False,
        processes: int = 1,
    ):
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        self.workers = max(1, min(MOST_WORKERS, cores // processes - 1)) if workers is None else workers
        self.reader, self.order, self.captions, self.size, self.skip_bad = reader, order, captions, size, skip_bad
        self.rows = range(0)
        self.next = -1
        self._latest: Decoded | None = None
        self._batches: Iterator[Decoded | str] | None = None
        self._taken: Future[Decoded | str] | None = None

    def __call__(self, first: int, rows: range) -> Decoded:
        """Return rows of the batch that starts at image number `first`. DataError for an image that can't be read."""
        if self._latest is not None and self._latest.first == first and self.rows == rows:
            return self._latest
        if self._batches is None or first != self.next or rows != self.rows:
            self._start(first, rows)
        assert self._batches is not None
        decoded = next(self._batches) if self._taken is None else self._taken.result()
        self._taken = None
        if isinstance(decoded, str):
            raise DataError(decoded)
        self._latest, self.next = decoded, first + self.order.batch
        return decoded

    def take_next(self) -> None:
        """Take the next batch from the workers, in a thread, once the latest is assembled.

        The workers then decode while a step computes. On a CPU, assembling a batch would wait for the cores that
        decode.
        """
        if self.workers and self._batches is not None and self._taken is None:
            self._taken = _call_in_thread(next, self._batches)

    def read_texts(self, first: int, rows: range) -> tuple[list[list[str]], np.ndarray]:
        """Return the drawn captions, and classes and codes (2, n), of rows of a batch, without reading images."""
        shards, samples = self.order(first, rows)
        metadata = [self.reader.row(int(shard), int(sample)) for shard, sample in zip(shards, samples, strict=True)]
        captions = self.captions.draw(first, self.order.batch, rows, [row["text"] for row in metadata])
        return captions, number_texts(metadata, captions)

    def _start(self, first: int, rows: range) -> None:
        self.rows, self._taken = rows, None
        # opens files of its own: a forked process would move the places in those that are open
        reader = copy.copy(self.reader)
        data = _Rows(reader, self.order, self.captions, rows, self.size, self.skip_bad)
        ahead: dict[str, Any] = {"prefetch_factor": AHEAD} if self.workers else {}
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "This DataLoader will create")  # more workers than cores are a choice
            loader: DataLoader[Any] = DataLoader(
                data,
                batch_size=None,
                sampler=_Firsts(first, self.order.batch),
                num_workers=self.workers,
                worker_init_fn=_set_up_worker,
                collate_fn=_identity,
                **ahead,
            )
            self._batches = iter(loader)


def _set_up_worker(worker: int) -> None:
    """Set up a worker: decode in one thread, and end with the training process, not before it.

    A worker of a training that is killed would wait for ever to hand over a batch. A signal to all processes of a
    training, such as `timeout` sends, must leave the workers alive until the last checkpoint is saved.
    """
    torch.set_num_threads(1)
    parent = os.getppid()
    awaited = {signal.SIGTERM} if hasattr(signal, "sigtimedwait") else set()  # not on macOS
    if awaited:
        signal.pthread_sigmask(signal.SIG_BLOCK, awaited)

    def watch() -> None:
        while os.getppid() == parent:
            if not awaited:
                time.sleep(1)
            elif (received := signal.sigtimedwait(awaited, 1)) is not None and received.si_pid == parent:
                break
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _call_in_thread(function: Callable[..., Any], *arguments: Any) -> Future[Any]:
    """Call a function in a thread that does not hold up the end of the process, as one of an executor does."""
    future: Future[Any] = Future()

    def call() -> None:
        try:
            future.set_result(function(*arguments))
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=call, daemon=True).start()
    return future


def _identity(batch: Any) -> Any:
    return batch

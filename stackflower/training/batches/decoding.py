"""Decode the batches of a stream in worker processes, ahead of the training."""

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
from stackflower.training.stopping import SIGNALS
from stackflower.utils.rng import create_rng

BATCHES_AHEAD = 4  # batches that each worker decodes ahead
MOST_WORKERS = 8
MOST_TRIES = 100  # images that are tried in place of a damaged one


@dataclass
class Decoded:
    """The decoded rows of a batch that belong to one process."""

    first: int  # number of the batch's first image
    images: np.ndarray  # uint8 (n, S, S, 3)
    captions: list[list[str]]  # drawn captions of each row; empty if they are embedded and their words are not needed
    embedding: np.ndarray | None  # (n, T), mean embeddings of the drawn captions, if the encoder runs in the worker
    numbers: np.ndarray  # (2, n) int64: class (the text's code if it has no class), and code of the drawn text
    codes: np.ndarray  # (n, most) int64: codes of all texts of each row, padded with -1
    notes: list[str]  # one sentence per image that was replaced by another


@dataclass(frozen=True)
class CaptionDraws:
    """Settings of the draws of captions, and the encoder if it runs in the workers.

    Args:
        seed: seed of the draws.
        averaged: number of captions drawn per image.
        encode: function that embeds captions as `(N, T)` in the worker; None: embed them on the training's device.
        words: whether the words of the captions are needed.
    """

    seed: int
    averaged: int = 1
    encode: Callable[[Sequence[str]], Tensor] | None = None
    words: bool = False

    def draw(self, first: int, total: int, rows: range, texts: Sequence[Sequence[str]]) -> list[list[str]]:
        """Draw different captions of each row, the same in every process.

        Args:
            first: number of the batch's first image.
            total: number of images of the batch.
            rows: rows of this process.
            texts: all captions of each of `rows`.

        Returns:
            Drawn captions of each row; all captions if it has fewer than `averaged`.
        """
        draws = torch.rand(total, self.averaged, generator=create_rng(self.seed, 5, first)).tolist()
        return [_draw_captions(captions, draws[place]) for place, captions in zip(rows, texts, strict=True)]


def _draw_captions(captions: Sequence[str], draws: Sequence[float]) -> list[str]:
    """Draw captions without replacement, one per draw in `[0, 1)`."""
    remaining = list(captions)
    return [remaining.pop(int(draw * len(remaining))) for draw in draws[: len(captions)]]


def compute_mean_embedding(captions: Sequence[Sequence[str]], encode: Callable[[Sequence[str]], Tensor]) -> Tensor:
    """Compute the mean embedding of the captions of each image.

    Args:
        captions: captions of n images, one or more each.
        encode: function that embeds captions as `(N, T)`.

    Returns:
        Embeddings `(n, T)`.
    """
    counts = [len(captions_of_image) for captions_of_image in captions]
    flat = encode([caption for captions_of_image in captions for caption in captions_of_image])
    if all(count == 1 for count in counts):
        return flat
    return torch.stack([part.mean(0) for part in flat.split(counts)])


def _hash_caption(caption: str) -> int:
    """Hash a caption to a code, which differs from the codes of other captions and from classes."""
    return int.from_bytes(hashlib.blake2b(caption.encode(), digest_size=8).digest(), "little") >> 2 | 1 << 61


def _hash_captions(texts: Sequence[Sequence[str]]) -> np.ndarray:
    """Hash the captions of n images to codes `(n, most)`, padded with -1."""
    most = max(map(len, texts))
    padded = [[*map(_hash_caption, captions), *[-1] * (most - len(captions))] for captions in texts]
    return np.array(padded, dtype=np.int64)


def number_texts(rows: Sequence[dict[str, Any]], captions: Sequence[Sequence[str]]) -> np.ndarray:
    """Compute classes and codes of the drawn texts of rows.

    Args:
        rows: metadata of each row.
        captions: drawn captions of each row, the first of which is hashed.

    Returns:
        Classes (or codes, for rows without a class) and codes of the drawn texts, int64 `(2, n)`.
    """
    codes = [_hash_caption(captions_of_image[0]) for captions_of_image in captions]
    labels = [row.get("label", code) for row, code in zip(rows, codes, strict=True)]
    return np.array([labels, codes], dtype=np.int64)


class _Rows(Dataset[Any]):
    """Decoded batches by the number of their first image; a sentence in place of a batch that can't be read."""

    def __init__(
        self, reader: ShardReader, order: StreamOrder, captions: CaptionDraws, rows: range, size: int, skip_bad: bool
    ):
        self.reader, self.order, self.captions = reader, order, captions
        self.rows, self.size, self.skip_bad = rows, size, skip_bad

    def __getitem__(self, first: int) -> Decoded | str:
        try:
            return self._decode(first)
        except DataError as error:  # returned as a value, because the loader would wrap it in a traceback
            return str(error)

    def _decode(self, first: int) -> Decoded:
        images = np.empty((len(self.rows), self.size, self.size, 3), np.uint8)
        rows, notes = list[dict[str, Any]](), list[str]()
        for place, (shard, sample) in enumerate(zip(*self.order(first, self.rows), strict=True)):
            chosen, images[place] = self._read_image(int(shard), int(sample), notes)
            rows.append(self.reader.row(int(shard), chosen))
        captions = self.captions.draw(first, self.order.batch, self.rows, [row["text"] for row in rows])
        numbers, codes = number_texts(rows, captions), _hash_captions([row["text"] for row in rows])
        if self.captions.encode is None:
            return Decoded(first, images, captions, None, numbers, codes, notes)
        embedding = compute_mean_embedding(captions, self.captions.encode).numpy()
        return Decoded(first, images, captions if self.captions.words else [], embedding, numbers, codes, notes)

    def _read_image(self, shard: int, sample: int, notes: list[str]) -> tuple[int, np.ndarray]:
        """Read the image of a sample or, with `skip_bad`, the next readable image of the shard.

        Args:
            shard: number of the shard.
            sample: number of the sample in the shard.
            notes: list to which a sentence is added for each image that can't be read.

        Returns:
            The number of the sample that was read, and its image.
        """
        count = int(self.order.counts[shard])
        for step in range(min(count, MOST_TRIES)):
            chosen = (sample + step) % count
            try:
                return chosen, self.reader.image(shard, chosen, self.size)
            except DataError as error:
                if not self.skip_bad:
                    raise DataError(
                        f"{error} Repair it, or replace it by the next image of the shard with `data.skip_bad=true`."
                    ) from error
                notes.append(str(error))
        raise DataError(f"{notes[-1]} None of the {min(count, MOST_TRIES)} images that were tried can be read.")


class _Firsts(Sampler[int]):
    """The numbers of the first images of batches, without end."""

    def __init__(self, first: int, step: int):
        self.first, self.step = first, step

    def __iter__(self) -> Iterator[int]:
        while True:
            yield self.first
            self.first += self.step


class Decoder:
    """Decoder of the rows of batches that belong to one process, in workers that decode ahead.

    Args:
        reader: reader of the shards.
        order: order of the samples.
        captions: how captions are drawn.
        size: height and width of the images, in pixels.
        workers: number of worker processes; 0: decode in this process; None: one fewer than the cores per training
            process, from 1 to `MOST_WORKERS`.
        skip_bad: replace an image that can't be read by the next one of the shard.
        processes: number of training processes on this machine.
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
        """Return decoded rows of a batch.

        Args:
            first: number of the batch's first image.
            rows: rows of this process.

        Raises:
            DataError: an image can't be read.
        """
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
        """Start to take the next batch from the workers, in a thread. Call this after the latest batch is assembled.

        The workers then decode while a step computes. Called earlier, on a CPU, assembling would compete with decoding
        for the cores.
        """
        if self.workers and self._batches is not None and self._taken is None:
            self._taken = _call_in_thread(next, self._batches)

    def read_texts(self, first: int, rows: range) -> tuple[list[list[str]], np.ndarray]:
        """Read the drawn captions of rows of a batch, without images.

        Args:
            first: number of the batch's first image.
            rows: rows of this process.

        Returns:
            The captions of each row, and the result of `number_texts`.
        """
        shards, samples = self.order(first, rows)
        metadata = [self.reader.row(int(shard), int(sample)) for shard, sample in zip(shards, samples, strict=True)]
        captions = self.captions.draw(first, self.order.batch, rows, [row["text"] for row in metadata])
        return captions, number_texts(metadata, captions)

    def _start(self, first: int, rows: range) -> None:
        """Start the workers at the batch whose first image has the number `first`."""
        self.rows, self._taken = rows, None
        # a copy of the reader opens its own files, because forked processes would share the positions in open files
        reader = copy.copy(self.reader)
        data = _Rows(reader, self.order, self.captions, rows, self.size, self.skip_bad)
        ahead: dict[str, Any] = {"prefetch_factor": BATCHES_AHEAD} if self.workers else {}
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "This DataLoader will create")  # users may want more workers than cores
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
    """Configure a worker to decode in one thread and to exit with the training process.

    Otherwise a worker would wait forever to hand over a batch after the training is killed. A signal to all processes
    of a training, such as that of `timeout` or of a closed terminal, must not end the workers before the last
    checkpoint is saved.
    """
    torch.set_num_threads(1)
    parent = os.getppid()
    for number in set(SIGNALS) - {signal.SIGINT, signal.SIGTERM}:
        signal.signal(number, signal.SIG_IGN)
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
    """Call a function in a daemon thread, which, unlike an executor's thread, does not delay the end of the process."""
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

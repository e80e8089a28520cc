"""The built-in data set `synthetic-flowers` as a source: drawn, not downloaded."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np
import torch

from stackflower.data.source import Rows, Source
from stackflower.data.synthetic.attributes import ATTRIBUTES, RESOLUTIONS, sample_attributes
from stackflower.data.synthetic.draw import draw
from stackflower.data.synthetic.grammar import captions as write_captions
from stackflower.errors import ConfigError, DataError
from stackflower.options import Count, Natural
from stackflower.registry import register
from stackflower.utils.cache import key_of
from stackflower.utils.progress import Progress

MOST_CAPTIONS = 16  # for one picture
VERSION = 7  # of the drawings and captions: a new one when either changes
WORKER = "import sys; from stackflower.data.synthetic.source import draw_share; draw_share(sys.argv[1], *map(int, sys.argv[2:]))"
WORTH_A_PROCESS = 1_000  # pictures for which another interpreter starts
LABEL = ("colour", "shape")  # the class of a picture is the pair of these


@lru_cache(maxsize=8)
def _sample(count: int, seed: int) -> dict[str, np.ndarray]:
    return sample_attributes(count, seed)


def class_names() -> dict[int, str]:
    """The classes: every colour with every shape."""
    first, second = (ATTRIBUTES[name] for name in LABEL)
    return {one * len(second) + two: f"{a} {b}" for one, a in enumerate(first) for two, b in enumerate(second)}


def draw_at(
    attributes: Mapping[str, np.ndarray], size: int, seed: int, progress: Progress | None = None, **share: int
) -> np.ndarray:
    """`draw` at any size up to its largest: what is smaller than its smallest is averaged from a multiple."""
    factor = -(-RESOLUTIONS[0] // size)
    pictures = draw(attributes, size * factor, seed, progress, **share)
    if factor == 1:
        return pictures
    blocks = pictures.reshape(len(pictures), size, factor, size, factor, 3)
    return np.rint(blocks.mean((2, 4))).astype(np.uint8)


def _draw_on_all_cores(images: np.memmap, count: int, seed: int, processes: int, progress: Progress) -> None:
    """Draw each share of the pictures in an interpreter of its own: one's threads would wait for each other."""
    cuts = [count * number // processes // 64 * 64 for number in range(processes)] + [count]
    images.flush()
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, str(images.filename), *map(str, (count, seed, first, last))],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Ctrl-C is for this process, which ends them
        )
        for first, last in itertools.pairwise(cuts)
    ]
    try:
        for worker in workers:
            assert worker.stdout is not None and worker.stderr is not None
            for line in worker.stdout:
                progress(int(line))
            if worker.wait():
                said = worker.stderr.read().strip().splitlines()
                why = said[-1] if said else f"a process ended with code {worker.returncode}; was there enough memory?"
                raise DataError(f"Drawing the flowers failed: {why}")
    finally:
        for worker in workers:
            worker.kill()
            worker.communicate()


def draw_share(path: str, count: int, seed: int, first: int, last: int) -> None:
    """Draw pictures `first` to `last` of (count, seed) into an .npy file that is there; tells stdout how many are done."""
    images = np.load(path, mmap_mode="r+")
    torch.set_num_threads(1)
    drawn = {name: column[:last] for name, column in _sample(count, seed).items()}
    for start in range(first, last, 64):
        part = draw_at(drawn, images.shape[1], seed, first=start, last=min(start + 64, last))
        images[start : start + len(part)] = part
        print(len(part), flush=True)
    images.flush()


@register("data", "synthetic-flowers")
class SyntheticFlowers(Source):
    """Drawn flowers of 8 colours with captions that ask for colour, shape, centre and more; nothing to download.

    Args:
        count: pictures in the training split.
        validation: pictures in the validation split.
        captions: captions for each picture.
        seed: another seed, other pictures.
    """

    def __init__(self, *, count: Count = 8000, validation: Count = 1000, captions: Count = 6, seed: Natural = 0):
        problems = [
            f"data.{name} = {value}: it must be above 0."
            for name, value in (("count", count), ("validation", validation), ("captions", captions))
            if value < 1
        ]
        if captions > MOST_CAPTIONS:
            problems.append(f"data.captions = {captions}: at most {MOST_CAPTIONS} are allowed.")
        if problems:
            raise ConfigError(problems)
        self.counts = {"train": count, "validation": validation}
        self.per_image, self.seed = captions, seed

    sizes = (16, RESOLUTIONS[1])

    def title(self) -> str:
        return f"synthetic-flowers ({self.counts['train']:,} pictures, seed {self.seed})"

    def splits(self) -> list[str]:
        return list(self.counts)

    def _seed(self, split: str) -> int:
        return 2 * self.seed + (split != "train")

    def fingerprint(self, split: str) -> str:
        return key_of(VERSION, self.counts[split], self.per_image, self._seed(split))

    def rows(self, split: str) -> Rows:
        drawn = _sample(self.counts[split], self._seed(split))
        texts, asked = write_captions(drawn, self._seed(split), self.per_image)
        first, second = (drawn[name] for name in LABEL)
        return Rows(
            captions=texts,
            labels=(first * len(ATTRIBUTES[LABEL[1]]) + second).tolist(),
            class_names=class_names(),
            attributes={name: np.array(values)[drawn[name]].tolist() for name, values in ATTRIBUTES.items()},
            asked=asked,
        )

    def fill(self, split: str, images: np.ndarray, progress: Progress) -> list[int]:
        drawn, seed = _sample(self.counts[split], self._seed(split)), self._seed(split)
        processes = min(os.cpu_count() or 1, len(images) // WORTH_A_PROCESS)
        if processes > 1 and isinstance(images, np.memmap) and images.filename:
            _draw_on_all_cores(images, len(images), seed, processes, progress)
        else:
            images[:] = draw_at(drawn, images.shape[1], seed, progress)
        return []

    def alike(self, asked: Mapping[str, str], count: int, size: int, seed: int) -> np.ndarray:
        """Other real pictures of one caption: uint8 (count, size, size, 3), what it asks for fixed and all else free."""
        return draw_at(sample_attributes(count, seed, asked), size, seed)

    def row(self, rows: Rows, number: int) -> dict[str, Any]:
        """A row of metadata.jsonl."""
        assert rows.labels is not None and rows.asked is not None
        return {
            "text": rows.captions[number],
            "label": rows.labels[number],
            "class_name": rows.class_names[rows.labels[number]],
            "attributes": {name: values[number] for name, values in rows.attributes.items()},
            "asked": rows.asked[number],
        }

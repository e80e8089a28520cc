"""The built-in data set `synthetic-flowers` as a source: rendered, not downloaded."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from collections.abc import Mapping
from functools import lru_cache

import numpy as np
import torch

from stackflower.data.source import ClassifierData, Rows, Source
from stackflower.data.synthetic.attributes import ATTRIBUTES, RESOLUTIONS, sample_attributes
from stackflower.data.synthetic.draw import draw
from stackflower.data.synthetic.grammar import captions as write_captions
from stackflower.errors import ConfigError, DataError
from stackflower.options import Count, Seed
from stackflower.registry import register
from stackflower.utils.cache import key_of
from stackflower.utils.progress import Progress

MOST_CAPTIONS = 16  # of one image
VERSION = 7  # of images and captions, which are frozen: published scores are of this version
TEST_SEEDS = 2**63 + 2**62  # beyond the seeds of every other split
CLASSIFIER_DATA = {"count": 12_000, "validation": 2_000, "test": 1, "captions": 1, "seed": 500_000}
CLASSIFIER_HEADS = ("colour", "shape", "centre")
CLASSIFIER_EPOCHS = 6
CLASSIFIER_DESCRIPTION = "synthetic-flowers, 12,000 images of other seeds"
WORKER = (
    "import sys; from stackflower.data.synthetic.source import render_share; "
    "render_share(sys.argv[1], *map(int, sys.argv[2:]))"
)
WORTH_A_PROCESS = 1_000  # images for which another process is started
LABEL = ("colour", "shape")  # the class of an image is the pair of these


@lru_cache(maxsize=8)
def _sample(count: int, seed: int) -> dict[str, np.ndarray]:
    return sample_attributes(count, seed)


def class_names() -> dict[int, str]:
    """The classes: every colour with every shape."""
    first, second = (ATTRIBUTES[name] for name in LABEL)
    return {one * len(second) + two: f"{a} {b}" for one, a in enumerate(first) for two, b in enumerate(second)}


def render(
    attributes: Mapping[str, np.ndarray], size: int, seed: int, progress: Progress | None = None, **share: int
) -> np.ndarray:
    """Render at any size up to 256 px: below 64 px, by averaging images of a multiple of the size."""
    factor = -(-RESOLUTIONS[0] // size)
    images = draw(attributes, size * factor, seed, progress, **share)
    if factor == 1:
        return images
    blocks = images.reshape(len(images), size, factor, size, factor, 3)
    return np.rint(blocks.mean((2, 4))).astype(np.uint8)


def _render_on_all_cores(images: np.memmap, count: int, seed: int, processes: int, progress: Progress) -> None:
    """Render shares of the images in separate processes: threads of one process would wait for each other."""
    bounds = [count * number // processes // 64 * 64 for number in range(processes)] + [count]
    images.flush()
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, str(images.filename), *map(str, (count, seed, first, last))],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Ctrl-C reaches only this process, which ends the others
        )
        for first, last in itertools.pairwise(bounds)
    ]
    try:
        for worker in workers:
            assert worker.stdout is not None and worker.stderr is not None
            for line in worker.stdout:
                progress(int(line))
            if worker.wait():
                lines = worker.stderr.read().strip().splitlines()
                reason = (
                    lines[-1] if lines else f"a process ended with code {worker.returncode}; was there enough memory?"
                )
                raise DataError(f"Rendering the flowers failed: {reason}")
    finally:
        for worker in workers:
            worker.kill()
            worker.communicate()


def render_share(path: str, count: int, seed: int, first: int, last: int) -> None:
    """Render images `first` to `last` of (count, seed) into an existing .npy file.

    It runs in a process of its own, and writes the size of each finished block to stdout, a line each, for the progress
    bar of the process that started it.
    """
    images = np.load(path, mmap_mode="r+")
    torch.set_num_threads(1)
    attributes = {name: column[:last] for name, column in _sample(count, seed).items()}
    for start in range(first, last, 64):
        part = render(attributes, images.shape[1], seed, first=start, last=min(start + 64, last))
        images[start : start + len(part)] = part
        sys.stdout.write(f"{len(part)}\n")
        sys.stdout.flush()
    images.flush()


@register("data", "synthetic-flowers")
class SyntheticFlowers(Source):
    """Rendered flowers of 8 colours with captions that mention colour, shape, centre and more; nothing to download.

    Nothing of this project was chosen by looking at the test split: settings are tuned on the validation split.

    Args:
        count: images in the training split.
        validation: images in the validation split.
        test: images in the test split.
        captions: captions of each image, at most 16.
        seed: of all three splits.
    """

    sizes = (16, RESOLUTIONS[1])

    def __init__(
        self,
        *,
        count: Count = 8000,
        validation: Count = 1000,
        test: Count = 1000,
        captions: Count = 6,
        seed: Seed = 0,
    ):
        if captions > MOST_CAPTIONS:
            raise ConfigError(f"data.captions = {captions}: at most {MOST_CAPTIONS} are allowed.")
        self.counts = {"train": count, "validation": validation, "test": test}
        self.per_image, self.seed = captions, seed
        self._rows: dict[str, Rows] = {}

    def title(self) -> str:
        return f"synthetic-flowers ({self.counts['train']:,} training images, seed {self.seed})"

    def splits(self) -> list[str]:
        return list(self.counts)

    def _seed(self, split: str) -> int:
        """The seed of a split, different for every split and seed of the data."""
        return TEST_SEEDS + self.seed if split == "test" else 2 * self.seed + (split != "train")

    def fingerprint(self, split: str) -> str:
        return key_of(VERSION, self.counts[split], self.per_image, self._seed(split))

    def rows(self, split: str) -> Rows:
        if split not in self._rows:
            self._rows[split] = self._written(split)
        return self._rows[split]

    def _written(self, split: str) -> Rows:
        attributes = _sample(self.counts[split], self._seed(split))
        texts, mentioned = write_captions(attributes, self._seed(split), self.per_image)
        first, second = (attributes[name] for name in LABEL)
        return Rows(
            captions=texts,
            labels=(first * len(ATTRIBUTES[LABEL[1]]) + second).tolist(),
            class_names=class_names(),
            attributes={name: np.array(values)[attributes[name]].tolist() for name, values in ATTRIBUTES.items()},
            mentioned_attributes=mentioned,
        )

    def fill(
        self,
        split: str,
        images: np.ndarray,
        progress: Progress,
        done: np.ndarray | None = None,
        jobs: int | None = None,
    ) -> dict[int, str]:
        attributes, seed = _sample(self.counts[split], self._seed(split)), self._seed(split)
        processes = min(jobs or os.cpu_count() or 1, len(images) // WORTH_A_PROCESS)
        if processes > 1 and isinstance(images, np.memmap) and images.filename:
            _render_on_all_cores(images, len(images), seed, processes, progress)
        else:
            images[:] = render(attributes, images.shape[1], seed, progress)
        return {}

    def classifier_data(self) -> ClassifierData:
        source = SyntheticFlowers(**CLASSIFIER_DATA)
        key = (VERSION, CLASSIFIER_DATA, tuple(ATTRIBUTES.items()))
        return ClassifierData(source, CLASSIFIER_HEADS, CLASSIFIER_EPOCHS, CLASSIFIER_DESCRIPTION, key)

    def similar(self, attributes: Mapping[str, str], count: int, size: int, seed: int) -> np.ndarray:
        return render(sample_attributes(count, seed, attributes), size, seed)

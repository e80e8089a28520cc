"""The built-in data set `synthetic-flowers`, which is rendered instead of downloaded."""

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
from stackflower.utils.cache import compute_key
from stackflower.utils.progress import Progress

MOST_CAPTIONS = 16  # per image
VERSION = 7  # of the images and captions; both are frozen, because published scores refer to this version
TEST_SEEDS = 2**63 + 2**62  # beyond the seeds of all other splits
CLASSIFIER_DATA = {"count": 12_000, "validation": 2_000, "test": 1, "captions": 1, "seed": 500_000}
CLASSIFIER_HEADS = ("colour", "shape", "centre")
CLASSIFIER_EPOCHS = 6
CLASSIFIER_DESCRIPTION = "synthetic-flowers, 12,000 images of other seeds"
WORKER = (
    "import sys; from stackflower.data.synthetic.source import render_share; "
    "render_share(sys.argv[1], *map(int, sys.argv[2:]))"
)
IMAGES_PER_PROCESS = 1_000  # at least: for fewer images, starting another process takes longer than it saves
LABEL = ("colour", "shape")  # pair of attributes that makes the class of an image


@lru_cache(maxsize=8)
def _sample(count: int, seed: int) -> dict[str, np.ndarray]:
    return sample_attributes(count, seed)


def build_class_names() -> dict[int, str]:
    """Return the name of each class, a pair of colour and shape, by its label."""
    colours, shapes = (ATTRIBUTES[name] for name in LABEL)
    return {
        row * len(shapes) + column: f"{colour} {shape}"
        for row, colour in enumerate(colours)
        for column, shape in enumerate(shapes)
    }


def render(
    attributes: Mapping[str, np.ndarray], size: int, seed: int, progress: Progress | None = None, **share: int
) -> np.ndarray:
    """Render images at any size up to 256 pixels; below 64, average the pixels of larger images.

    Args:
        attributes: attributes of all images (see `draw`).
        size: height and width of the images.
        seed: random seed.
        progress: called with the number of images just finished.
        share: `first` and `last` of the images to render (see `draw`).

    Returns:
        RGB images, uint8 (N, size, size, 3).
    """
    factor = -(-RESOLUTIONS[0] // size)
    images = draw(attributes, size * factor, seed, progress, **share)
    if factor == 1:
        return images
    blocks = images.reshape(len(images), size, factor, size, factor, 3)
    return np.rint(blocks.mean((2, 4))).astype(np.uint8)


def _render_on_all_cores(images: np.memmap, count: int, seed: int, processes: int, progress: Progress) -> None:
    """Render shares of the images in separate processes, because threads of one process would wait for each other."""
    bounds = [count * number // processes // 64 * 64 for number in range(processes)] + [count]
    images.flush()
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, str(images.filename), *map(str, (count, seed, first, last))],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Ctrl-C reaches only this process, which stops the others
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
                    lines[-1] if lines else f"a process exited with code {worker.returncode}; was there enough memory?"
                )
                raise DataError(f"Rendering the flowers failed: {reason}")
    finally:
        for worker in workers:
            worker.kill()
            worker.communicate()


def render_share(path: str, count: int, seed: int, first: int, last: int) -> None:
    """Render a share of a split into an existing ``.npy`` file, in a process of its own.

    The size of each finished block is written to stdout, one per line, for the progress bar of the parent process.

    Args:
        path: file of all images, uint8 (N, S, S, 3).
        count: number of images of the split.
        seed: seed of the split.
        first: first image to render.
        last: end of the range of images to render.
    """
    images = np.load(path, mmap_mode="r+")
    torch.set_num_threads(1)
    attributes = {name: column[:last] for name, column in _sample(count, seed).items()}
    for start in range(first, last, 64):
        block = render(attributes, images.shape[1], seed, first=start, last=min(start + 64, last))
        images[start : start + len(block)] = block
        sys.stdout.write(f"{len(block)}\n")
        sys.stdout.flush()
    images.flush()


@register("data", "synthetic-flowers")
class SyntheticFlowers(Source):
    """Rendered flowers of 8 colours, with captions that mention colour, shape, centre and more; nothing to download.

    No choice in this project was made by looking at the test split: settings are tuned on the validation split.

    Args:
        count: number of images in the training split.
        validation: number of images in the validation split.
        test: number of images in the test split.
        captions: captions per image, at most 16.
        seed: random seed of all three splits.
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
            raise ConfigError(f"`data.captions={captions}` is too large: at most {MOST_CAPTIONS} are allowed.")
        self.counts = {"train": count, "validation": validation, "test": test}
        self.captions_per_image, self.seed = captions, seed
        self._rows: dict[str, Rows] = {}

    def title(self) -> str:
        return f"synthetic-flowers ({self.counts['train']:,} training images, seed {self.seed})"

    def splits(self) -> list[str]:
        return list(self.counts)

    def _seed(self, split: str) -> int:
        """Return the seed of a split, which no other split shares, whatever the seed of the data."""
        return TEST_SEEDS + self.seed if split == "test" else 2 * self.seed + (split != "train")

    def fingerprint(self, split: str) -> str:
        return compute_key(VERSION, self.counts[split], self.captions_per_image, self._seed(split))

    def rows(self, split: str) -> Rows:
        if split not in self._rows:
            self._rows[split] = self._write_rows(split)
        return self._rows[split]

    def _write_rows(self, split: str) -> Rows:
        attributes = _sample(self.counts[split], self._seed(split))
        texts, mentioned = write_captions(attributes, self._seed(split), self.captions_per_image)
        colours, shapes = (attributes[name] for name in LABEL)
        return Rows(
            captions=texts,
            labels=(colours * len(ATTRIBUTES[LABEL[1]]) + shapes).tolist(),
            class_names=build_class_names(),
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
        processes = min(jobs or os.cpu_count() or 1, len(images) // IMAGES_PER_PROCESS)
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

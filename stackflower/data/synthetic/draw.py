"""Rendering of the built-in data set `synthetic-flowers`.

Each image is a flower in front of an out-of-focus garden. Eight named attributes describe it; everything else (position, rotation,
tilt, differences between petals, background) is random, from the seed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from stackflower.data.synthetic.attributes import checked, key
from stackflower.data.synthetic.flower import COLUMNS, GROUP, bands, outlines


def draw(
    attributes: Mapping[str, np.ndarray],
    resolution: int,
    seed: int,
    progress: Callable[[int], None] | None = None,
    first: int = 0,
    last: int | None = None,
) -> np.ndarray:
    """Render the images `first` to `last`: uint8 (last − first, resolution, resolution, 3), RGB.

    `attributes` holds (N,) indices for every name (see `sample_attributes`). Image i depends on `seed`, i and its own attributes
    alone, and is the same flower at every resolution (64 to 256). `progress` is called with the number of images just finished.
    ValueError for a resolution outside that range and for attributes that are missing, of different lengths or out of range.
    """
    columns = checked(attributes, resolution)
    count = len(columns["colour"])
    last = count if last is None else last
    if first % GROUP:
        raise ValueError(f"first = {first}: it must be a multiple of {GROUP}.")
    images = np.empty((last - first, resolution, resolution, 3), dtype=np.uint8)

    def group(start: int) -> int:
        # A short last group is padded: every image has the same position in tensors of one shape, so its bits do not depend on
        # the number of images.
        rows = np.minimum(np.arange(start, start + GROUP), count - 1)
        chosen = {name: torch.from_numpy(column[rows].astype(np.int64)) for name, column in columns.items()}
        random = np.random.Philox(key=key(seed, 2), counter=[0, 0, start // GROUP, 0])
        table = torch.from_numpy(np.random.Generator(random).random((GROUP, COLUMNS), dtype=np.float32))
        done = min(GROUP, last - start)
        offset = start - first
        with torch.inference_mode():
            for top, band in bands(table, chosen, resolution):
                images[offset : offset + done, top : top + band.shape[1]] = band[:done].numpy()
        return done

    outlines()
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        for done in pool.map(group, range(first, last, GROUP)):
            if progress is not None:
                progress(done)
    return images

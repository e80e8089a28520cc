"""Pictures of flowers drawn by code: the built-in data set ``synthetic-flowers``.

Each picture is a flower before an out-of-focus garden. Eight named attributes say what it shows; everything else (place,
turn, tilt, differences between petals, what lies behind) is drawn from the seed.
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
    """Draw the pictures `first` to `last`: uint8 (last − first, resolution, resolution, 3), RGB.

    ``attributes`` holds (N,) indices for every name (see ``sample_attributes``). Picture i depends on
    ``seed``, i and its own attributes alone, and is the same flower at every resolution (64 to 256).
    ``progress`` is called with the number of pictures just finished. Raises ValueError for a resolution
    outside that range and for attributes that are missing, of unlike lengths or out of range.
    """
    columns = checked(attributes, resolution)
    count = len(columns["colour"])
    last = count if last is None else last
    if first % GROUP:
        raise ValueError(f"first = {first}: it must be a multiple of {GROUP}.")
    pictures = np.empty((last - first, resolution, resolution, 3), dtype=np.uint8)

    def group(start: int) -> int:
        # A short last group is filled up, so that every picture has the same place in tensors of one shape
        # and comes out the same to the last bit however many follow it.
        rows = np.minimum(np.arange(start, start + GROUP), count - 1)
        chosen = {name: torch.from_numpy(column[rows].astype(np.int64)) for name, column in columns.items()}
        random = np.random.Philox(key=key(seed, 2), counter=[0, 0, start // GROUP, 0])
        table = torch.from_numpy(np.random.Generator(random).random((GROUP, COLUMNS), dtype=np.float32))
        done = min(GROUP, last - start)
        place = start - first
        with torch.inference_mode():
            for top, band in bands(table, chosen, resolution):
                pictures[place : place + done, top : top + band.shape[1]] = band[:done].numpy()
        return done

    outlines()
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        for done in pool.map(group, range(first, last, GROUP)):
            if progress is not None:
                progress(done)
    return pictures

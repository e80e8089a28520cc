"""Rendering of the built-in data set `synthetic-flowers`.

Each image shows a flower in front of an out-of-focus garden. Eight attributes describe it; everything else (position,
rotation, tilt, differences between petals, background) is drawn at random from the seed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from stackflower.data.synthetic.attributes import check_attributes, philox_key
from stackflower.data.synthetic.flower import COLUMNS, GROUP, bands, outlines


def draw(
    attributes: Mapping[str, np.ndarray],
    resolution: int,
    seed: int,
    progress: Callable[[int], None] | None = None,
    first: int = 0,
    last: int | None = None,
) -> np.ndarray:
    """Render images. Image i depends only on `seed`, i and its attributes, and looks the same at every resolution.

    Args:
        attributes: for each attribute, the indices (N,) of its values (see `sample_attributes`).
        resolution: height and width of the images, 64 to 256 pixels.
        seed: random seed of everything that the attributes don't determine.
        progress: called with the number of images just finished.
        first: first image to render, a multiple of `GROUP`.
        last: end of the range of images to render. Default: N.

    Returns:
        RGB images, uint8 (last − first, resolution, resolution, 3).

    Raises:
        ValueError: `resolution` or `first` is not allowed, or an attribute is missing, too short or out of range.
    """
    columns = check_attributes(attributes, resolution)
    count = len(columns["colour"])
    last = count if last is None else last
    if first % GROUP:
        raise ValueError(f"first={first} must be a multiple of {GROUP}.")
    images = np.empty((last - first, resolution, resolution, 3), dtype=np.uint8)

    def render_group(start: int) -> int:
        # Pad a short last group: in tensors of one shape, an image's bits don't depend on the number of images.
        rows = np.minimum(np.arange(start, start + GROUP), count - 1)
        chosen = {name: torch.from_numpy(column[rows].astype(np.int64)) for name, column in columns.items()}
        random = np.random.Philox(key=philox_key(seed, 2), counter=[0, 0, start // GROUP, 0])
        table = torch.from_numpy(np.random.Generator(random).random((GROUP, COLUMNS), dtype=np.float32))
        done = min(GROUP, last - start)
        offset = start - first
        with torch.inference_mode():
            for top, band in bands(table, chosen, resolution):
                images[offset : offset + done, top : top + band.shape[1]] = band[:done].numpy()
        return done

    outlines()  # fill their cache before threads ask for it
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        for done in pool.map(render_group, range(first, last, GROUP)):
            if progress is not None:
                progress(done)
    return images

"""Export of the synthetic data set as an image folder."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from stackflower.data.images import save_png
from stackflower.data.synthetic.source import SyntheticFlowers
from stackflower.errors import ConfigError, DataError
from stackflower.utils.atomic import reporting_write_errors, write_text
from stackflower.utils.progress import progress_bar


def write_image_folder(
    name: str, out: str, *, count: int, validation: int, test: int, resolution: int, seed: int
) -> str:
    """Write a built-in data set as an ImageFolder, with one folder per split.

    Args:
        name: name of the data set, "synthetic-flowers".
        out: folder to create.
        count: number of training images.
        validation: number of validation images.
        test: number of test images.
        resolution: height and width of the images, 64 to 256 pixels.
        seed: random seed.

    Returns:
        A summary for the user: the folder, the number of images of each split and their size.

    Raises:
        ConfigError: the data set is unknown.
        DataError: the folder is not empty or can't be written.
    """
    if name != "synthetic-flowers":
        raise ConfigError(f"Unknown built-in data set {name!r}. Allowed: synthetic-flowers.")
    folder = Path(out).expanduser()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DataError(f"{folder} already exists and is not empty; choose another `out`.")
    source = SyntheticFlowers(count=count, validation=validation, test=test, seed=seed)
    with reporting_write_errors(folder, DataError):
        for split in source.splits():
            rows = source.rows(split)
            images = np.empty((len(rows), resolution, resolution, 3), dtype=np.uint8)
            with progress_bar(f"rendering {split}", len(rows)) as progress:
                source.fill(split, images, progress)
            names = [f"{number:06d}.png" for number in range(len(rows))]
            with ThreadPoolExecutor() as pool:
                list(pool.map(save_png, images, [folder / split / name for name in names]))
            lines = [json.dumps({"file_name": name, **rows.row(number)}) for number, name in enumerate(names)]
            write_text(folder / split / "metadata.jsonl", "\n".join(lines) + "\n")
    counts = ", ".join(f"{number:,} in {split}" for split, number in source.counts.items())
    return f"{folder}: {counts} images of {resolution} px"

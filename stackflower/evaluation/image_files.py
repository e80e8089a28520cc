"""A folder of images from anywhere, decoded in batches for an extractor."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from stackflower.data.images import EXTENSIONS, load_square
from stackflower.errors import DataError

BATCH = 200
NAMED = 5  # files that an error names


@dataclass
class ImageFiles:
    """The images of a folder and of the folders in it, by name.

    Args:
        files: of them.
        resolution: height and width of their central squares.
        trim: cut borders of one colour off first.
    """

    files: list[Path]
    resolution: int
    trim: bool = False
    bad: list[str] = field(default_factory=list)  # what was wrong with those that could not be read
    sizes: set[tuple[int, int]] = field(default_factory=set)  # width and height of those that could

    @classmethod
    def of(cls, folder: Path, resolution: int, trim: bool = False) -> ImageFiles:
        """Those of a folder. DataError where there are none."""
        files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in EXTENSIONS and path.is_file())
        if not files:
            raise DataError(f"{folder} has no images; wanted are files that end in {', '.join(sorted(EXTENSIONS))}.")
        return cls(files, resolution, trim)

    def batches(self, part: tuple[int, int] = (0, 1)) -> Iterator[Tensor]:
        """uint8 (n, 3, R, R) of the k-th of n equal shares, as they are decoded; what can't be read is left out and named in `bad`."""
        index, count = part
        mine = self.files[len(self.files) * index // count : len(self.files) * (index + 1) // count]
        with ThreadPoolExecutor() as pool:
            for first in range(0, len(mine), BATCH):
                found = [image for image in pool.map(self._read, mine[first : first + BATCH]) if image is not None]
                if found:
                    yield torch.from_numpy(np.stack(found)).permute(0, 3, 1, 2)

    def _read(self, path: Path) -> np.ndarray | None:
        try:
            image = load_square(path, self.resolution, self.trim)
            with Image.open(path) as header:
                self.sizes.add(header.size)
        except (DataError, OSError) as error:
            self.bad.append(str(error))
            return None
        return image


def refusal(bad: list[str], total: int, folder: Path) -> str:
    """The sentence about images that can't be read."""
    more = f"\n  and {len(bad) - NAMED} more" if len(bad) > NAMED else ""
    listed = "".join(f"\n  {sentence}" for sentence in sorted(bad)[:NAMED])
    return f"{len(bad)} of {total:,} images in {folder} can't be read:{listed}{more}\nMend or delete them, or leave them out with --skip-bad."


def described(sizes: set[tuple[int, int]]) -> str:
    """Sizes in pixels, in words."""
    if len(sizes) == 1:
        ((width, height),) = sizes
        return f"{width}×{height}"
    small, large = (function(sizes, key=lambda size: size[0] * size[1]) for function in (min, max))
    return f"{len(sizes)} sizes from {small[0]}×{small[1]} to {large[0]}×{large[1]}"

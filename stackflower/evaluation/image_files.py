"""A folder of images from anywhere, decoded in batches for an extractor."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from stackflower.data.images import EXTENSIONS, load_square, open_image
from stackflower.data.opening import open_source
from stackflower.errors import DataError
from stackflower.utils.distributed import share
from stackflower.utils.rng import create_rng

BATCH = 200
MAX_LISTED = 5  # files that an error names


@dataclass
class ImageFiles:
    """The images of a folder and of the folders in it, in random order.

    Args:
        folder: directory to scan.
        files: image paths, shuffled.
        resolution: height and width of their central squares.
        trim: cut borders of one colour off first.
    """

    folder: Path
    files: list[Path]
    resolution: int
    trim: bool = False
    bad: dict[int, str] = field(default_factory=dict)  # place → what was wrong with one that could not be read
    sizes: set[tuple[int, int]] = field(default_factory=set)  # width and height of those that could

    @classmethod
    def of(cls, folder: Path, resolution: int, trim: bool = False, seed: int = 0) -> ImageFiles:
        """Scan a folder. DataError if it has no images."""
        files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in EXTENSIONS and path.is_file())
        if not files:
            raise DataError(f"{folder} has no images; wanted are files that end in {', '.join(sorted(EXTENSIONS))}.")
        order = torch.randperm(len(files), generator=create_rng(seed, 4)).tolist()
        return cls(folder, [files[place] for place in order], resolution, trim)

    def batches(self, part: tuple[int, int] = (0, 1)) -> Iterator[tuple[Tensor, Tensor]]:
        """Decode the k-th of n equal shares of the files, batch by batch.

        Files that can't be read are added to `bad`, and their places stay empty.

        Args:
            part: (k, n).

        Yields:
            Places `(n,)` of the images of a batch, and the images, uint8 `(n, 3, R, R)`.
        """
        mine = share(len(self.files), part)
        with ThreadPoolExecutor() as pool:
            for first in range(mine.start, mine.stop, BATCH):
                numbers = range(first, min(first + BATCH, mine.stop))
                read = zip(numbers, pool.map(self._read, numbers), strict=True)
                decoded = {number: image for number, image in read if image is not None}
                if decoded:
                    yield (
                        torch.tensor(list(decoded)),
                        torch.from_numpy(np.stack(list(decoded.values()))).permute(0, 3, 1, 2),
                    )

    def _read(self, number: int) -> np.ndarray | None:
        path = self.files[number]
        try:
            image = load_square(path, self.resolution, self.trim)
            with open_image(path) as header:
                self.sizes.add(header.size)
        except (DataError, OSError) as error:
            self.bad[number] = str(error)
            return None
        return image

    def captions(self) -> list[str | None]:
        """Return the first caption of each file, or None for a file without captions.

        Captions come from metadata, a table or text files, as those of data do.

        Raises:
            DataError: the captions can't be used.
        """
        source = open_source(str(self.folder), {"skip_bad": False})
        if not source.is_captioned:
            return [None] * len(self.files)
        captions: dict[str, str] = {}
        for split in source.splits():
            rows = source.rows(split)
            captions |= {name: texts[0] for name, texts in zip(rows.files or (), rows.captions, strict=False)}
        return [captions.get(path.relative_to(self.folder).as_posix()) for path in self.files]


def describe_unreadable(bad: list[str], total: int, folder: Path) -> str:
    """Return a sentence about the images that can't be read."""
    more = f"\n  and {len(bad) - MAX_LISTED} more" if len(bad) > MAX_LISTED else ""
    listed = "".join(f"\n  {sentence}" for sentence in sorted(bad)[:MAX_LISTED])
    advice = "Repair or delete them, or leave them out with `skip_bad=true`."
    return f"{len(bad)} of {total:,} images in {folder} can't be read:{listed}{more}\n{advice}"


def describe_sizes(sizes: set[tuple[int, int]]) -> str:
    """Sizes in pixels, in words."""
    if len(sizes) == 1:
        ((width, height),) = sizes
        return f"{width}×{height}"
    small, large = (function(sizes, key=lambda size: size[0] * size[1]) for function in (min, max))
    return f"{len(sizes)} sizes from {small[0]}×{small[1]} to {large[0]}×{large[1]}"

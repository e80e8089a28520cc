"""A folder of images from anywhere, decoded in batches for an extractor."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from stackflower.data.archives import open_files
from stackflower.data.caption_files import read_text
from stackflower.data.images import EXTENSIONS, load_square, open_image
from stackflower.data.rows import join_problems
from stackflower.data.sources.folder import METADATA, read_metadata
from stackflower.errors import DataError
from stackflower.formats.lines import split_lines
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

        Captions come from metadata.jsonl or metadata.csv in the folder and its subfolders, or from a text file beside
        the image.

        Raises:
            DataError: the metadata can't be read.
        """
        captions: dict[Path, str] = {}
        for folder in sorted({path.parent for name in METADATA for path in self.folder.rglob(name)}):
            listing = read_metadata(open_files(folder))
            if listing.problems:
                raise DataError(f"{folder} can't be used as it is:\n{join_problems(listing.problems)}")
            captions |= {folder / row["file_name"]: row["text"][0] for row in listing.rows}
        return [captions.get(path) if captions else _read_caption_file(path.with_suffix(".txt")) for path in self.files]


def _read_caption_file(path: Path) -> str | None:
    """Return the first line of a text file that is not empty; None without such a file or line."""
    return next(iter(split_lines(read_text(path))), None) if path.is_file() else None


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

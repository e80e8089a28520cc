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

BATCH_SIZE = 200
MAX_LISTED = 5  # files listed in an error


@dataclass
class ImageFiles:
    """The images of a folder and its subfolders, in random order.

    Args:
        folder: directory to scan.
        files: image paths, shuffled.
        resolution: height and width that their central squares are resized to.
        trim: crop borders of one colour first.
        bad: for each unreadable file, its place and the reason.
        sizes: widths and heights of the files read so far.
    """

    folder: Path
    files: list[Path]
    resolution: int
    trim: bool = False
    bad: dict[int, str] = field(default_factory=dict)
    sizes: set[tuple[int, int]] = field(default_factory=set)

    @classmethod
    def of(cls, folder: Path, resolution: int, trim: bool = False, seed: int = 0) -> ImageFiles:
        """Scan a folder.

        Raises:
            DataError: the folder has no images.
        """
        files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in EXTENSIONS and path.is_file())
        if not files:
            raise DataError(f"{folder} has no images; expected files ending in {', '.join(sorted(EXTENSIONS))}.")
        order = torch.randperm(len(files), generator=create_rng(seed, 4)).tolist()
        return cls(folder, [files[place] for place in order], resolution, trim)

    def iterate_batches(self, part: tuple[int, int] = (0, 1)) -> Iterator[tuple[Tensor, Tensor]]:
        """Decode a share of the files, batch by batch.

        Files that can't be read are recorded in `bad`, and their places are skipped.

        Args:
            part: (k, n) to decode the k-th of n equal shares.

        Yields:
            Places `(n,)` of the images of a batch, and the images, uint8 `(n, 3, R, R)`.
        """
        indices = share(len(self.files), part)
        with ThreadPoolExecutor() as pool:
            for first in range(indices.start, indices.stop, BATCH_SIZE):
                places = range(first, min(first + BATCH_SIZE, indices.stop))
                images = zip(places, pool.map(self._read, places), strict=True)
                decoded = {place: image for place, image in images if image is not None}
                if decoded:
                    yield (
                        torch.tensor(list(decoded)),
                        torch.from_numpy(np.stack(list(decoded.values()))).permute(0, 3, 1, 2),
                    )

    def _read(self, place: int) -> np.ndarray | None:
        """Decode one file; None if it can't be read."""
        path = self.files[place]
        try:
            image = load_square(path, self.resolution, self.trim)
            with open_image(path) as header:
                self.sizes.add(header.size)
        except (DataError, OSError) as error:
            self.bad[place] = str(error)
            return None
        return image

    def read_captions(self) -> list[str | None]:
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
    """Build the error message about images that can't be read."""
    more = f"\n  and {len(bad) - MAX_LISTED} more" if len(bad) > MAX_LISTED else ""
    listed = "".join(f"\n  {sentence}" for sentence in sorted(bad)[:MAX_LISTED])
    advice = "Repair or delete them, or leave them out with `skip_bad=true`."
    return f"{len(bad)} of {total:,} images in {folder} can't be read:{listed}{more}\n{advice}"


def describe_sizes(sizes: set[tuple[int, int]]) -> str:
    """Describe sizes in pixels: the only one, or their number and the smallest and the largest area."""
    if len(sizes) == 1:
        ((width, height),) = sizes
        return f"{width}×{height}"
    small, large = (function(sizes, key=lambda size: size[0] * size[1]) for function in (min, max))
    return f"{len(sizes)} sizes from {small[0]}×{small[1]} to {large[0]}×{large[1]}"

"""Images of any folder or archive, decoded in batches for an extractor."""

from __future__ import annotations

import io
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import compress
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from stackflower.data.archives import open_files
from stackflower.data.files import Files
from stackflower.data.grids import is_grid
from stackflower.data.image_formats import EXTENSIONS, decide_by_name
from stackflower.data.images import load_square, open_image
from stackflower.data.listed import ListedSource
from stackflower.data.opening import open_source
from stackflower.data.rows.checks import join_problems
from stackflower.data.sources.table import METADATA
from stackflower.errors import DataError
from stackflower.utils.distributed import share
from stackflower.utils.rng import create_rng

BATCH_SIZE = 200
MAX_LISTED = 5  # files listed in an error


@dataclass
class ImageFiles:
    """Images of a folder or archive, including subfolders, in random order.

    Hidden files and image grids of Stackflower are left out.

    Args:
        folder: directory or archive, as given.
        source: files of the folder or archive.
        files: names of the images, shuffled.
        resolution: height and width of the decoded images, which are centre-cropped.
        trim: whether to cut off borders of a single colour first.
        grids: number of grids left out.
        refused: sentences about files and folders that can't be opened.
        unreadable: reasons for unreadable files, by position in `files`.
        sizes: widths and heights of the files read so far.
    """

    folder: Path
    source: Files
    files: list[str]
    resolution: int
    trim: bool = False
    grids: int = 0
    refused: list[str] = field(default_factory=list)
    unreadable: dict[int, str] = field(default_factory=dict)
    sizes: set[tuple[int, int]] = field(default_factory=set)

    @classmethod
    def of(cls, folder: Path, resolution: int, trim: bool = False, seed: int = 0) -> ImageFiles:
        """List the images of a folder or archive.

        Raises:
            DataError: the folder can't be opened or has no images.
        """
        source = open_files(folder, follow_links=True)
        with ThreadPoolExecutor() as pool:
            grids = set(compress(source.images, pool.map(lambda name: _try_is_grid(source, name), source.images)))
        files = [name for name in source.images if name not in grids]
        refused = [f"{source.path / name} {reason}." for name, reason in source.refused.items() if decide_by_name(name)]
        refused = [*source.problems, *refused]
        if not files:
            raise DataError(_explain_no_images(source, bool(grids), refused))
        order = torch.randperm(len(files), generator=create_rng(seed, 4)).tolist()
        return cls(folder, source, [files[place] for place in order], resolution, trim, len(grids), refused)

    def iterate_batches(self, part: tuple[int, int] = (0, 1)) -> Iterator[tuple[Tensor, Tensor]]:
        """Decode a share of the files, batch by batch.

        Unreadable files are recorded in `unreadable` and skipped.

        Args:
            part: (k, n) to decode the k-th of n equal shares.

        Yields:
            The positions `(n,)` of the images of a batch, and the images, uint8 `(n, 3, R, R)`.
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
        name = self.files[place]
        try:
            content = self.source.read(name)
            image = load_square(self.source.path / name, self.resolution, self.trim, content)
            with open_image(io.BytesIO(content)) as header:
                self.sizes.add(header.size)
        except (DataError, OSError) as error:
            self.unreadable[place] = str(error)
            return None
        return image

    def read_captions(self) -> list[str | None]:
        """Return the first caption of each file, or None for a file without captions.

        Captions come from metadata, a table or text files, as for data sets.

        Raises:
            DataError: the captions can't be used.
        """
        captions: dict[str, str] = {}
        folders = {name.rpartition("/")[0] for name in self.source.names if name.rpartition("/")[2] in METADATA}
        for folder in sorted(folders) if self.folder.is_dir() else []:
            captions |= self._read_folder_captions(folder, "folder")
        if not captions:
            captions = self._read_folder_captions("")
        return [captions.get(name) for name in self.files]

    def _read_folder_captions(self, folder: str, layout: str | None = None) -> dict[str, str]:
        """Read the first caption of each image that the metadata, table or text files of a folder name."""
        source = open_source(str(self.folder / folder), layout=layout)
        if not source.is_captioned or not isinstance(source, ListedSource):
            return {}
        captions: dict[str, str] = {}
        for split in source.splits():
            listing = source.get_listing(split)
            if listing.problems and layout is not None:
                raise DataError(f"{self.folder / folder} can't be used:\n{join_problems(listing.problems)}")
            captions |= {f"{folder}/{row['file_name']}".lstrip("/"): row["text"][0] for row in listing.rows}
        return captions


def _try_is_grid(source: Files, name: str) -> bool:
    """Return whether a file is a grid; an unreadable file is reported when it is decoded."""
    try:
        return is_grid(source, name)
    except DataError:
        return False


def _explain_no_images(source: Files, has_grids: bool, refused: list[str]) -> str:
    """Build the error message for a folder without images to score."""
    if refused:
        return f"{source.path} has no readable images:\n{join_problems(refused)}"
    if has_grids:
        return f"{source.path} contains only image grids, which are not scored; choose a folder of single images."
    found = f" {source.names[0]} {source.explain_not_image(source.names[0])}." if source.names else ""
    return f"{source.path} has no images; supported extensions are {', '.join(sorted(EXTENSIONS))}.{found}"


def describe_unreadable(bad: list[str], total: int, folder: Path) -> str:
    """Build the error message about unreadable images."""
    more = f"\n  and {len(bad) - MAX_LISTED} more" if len(bad) > MAX_LISTED else ""
    listed = "".join(f"\n  {sentence}" for sentence in sorted(bad)[:MAX_LISTED])
    advice = "Repair or delete them, or leave them out with `skip_bad=true`."
    return f"{len(bad)} of {total:,} images in {folder} can't be read:{listed}{more}\n{advice}"


def describe_sizes(sizes: set[tuple[int, int]]) -> str:
    """Describe sizes in pixels: a single one, or the number of sizes with the smallest and the largest."""
    if len(sizes) == 1:
        ((width, height),) = sizes
        return f"{width}×{height}"
    small, large = (function(sizes, key=lambda size: size[0] * size[1]) for function in (min, max))
    return f"{len(sizes)} sizes from {small[0]}×{small[1]} to {large[0]}×{large[1]}"

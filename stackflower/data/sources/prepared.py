"""Folders that `stackflower data prepare SRC OUT` writes: images decoded once, ready to use."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

from stackflower.data.files import Files, Folder
from stackflower.data.prepared import IMAGES, ROWS, Prepared, build_damage_error, open_prepared
from stackflower.data.source import SPLITS, Rows, Source
from stackflower.errors import DataError
from stackflower.registry import register
from stackflower.utils.progress import Progress

DESCRIPTION_FILE = "prepared.json"


@register("data", "prepared")
class PreparedSource(Source):
    """Folder written by ``stackflower data prepare SRC OUT``.

    Its images can be used at the size at which they were prepared, and at smaller ones.

    Args:
        path: the folder.
    """

    layout = "a prepared data set"
    precedence = 30

    def __init__(self, *, path: str):
        self.path = Path(path).expanduser()
        self._opened: dict[str, Prepared] = {}
        try:
            about = json.loads((self.path / DESCRIPTION_FILE).read_text(encoding="utf-8"))
            self.name, self.size, self.keys = str(about["title"]), int(about["size"]), dict(about["keys"])
            self.keys = {split: str(self.keys[split]) for split in SPLITS if split in self.keys}
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise DataError(f"{self.path} is not a prepared data set ({error!r}); prepare it again.") from error
        if "train" not in self.keys:
            raise DataError(f"{self.path} has no training split; prepare it again.")
        self.sizes = (1, self.size)

    @classmethod
    def recognises(cls, files: Files) -> bool:
        return isinstance(files, Folder) and DESCRIPTION_FILE in files

    def splits(self) -> list[str]:
        return list(self.keys)

    def title(self) -> str:
        return self.name

    def fingerprint(self, split: str) -> str:
        try:  # without times, because copying a folder may change them
            sizes = [(self.path / split / name).stat().st_size for name in (IMAGES, ROWS)]
        except OSError as error:
            raise build_damage_error(self.path / split, error) from error
        return f"{self.keys[split]} {sizes}"

    def prepared_folder(self, split: str, size: int) -> Path | None:
        return self.path / split if size == self.size else None

    def open_split(self, split: str) -> Prepared:
        """Open a split, once."""
        if split not in self._opened:
            self._opened[split] = open_prepared(self.path / split, self.keys[split])
        return self._opened[split]

    def rows(self, split: str) -> Rows:
        return self.open_split(split).rows

    def left_out(self, split: str) -> list[str]:
        return self.open_split(split).left_out

    def warnings(self, split: str) -> list[str]:
        left_out = self.left_out(split)
        return [f"{len(left_out):,} images of {split} were left out during preparation."] if left_out else []

    def fill(
        self,
        split: str,
        images: np.ndarray,
        progress: Progress,
        done: np.ndarray | None = None,
        jobs: int | None = None,
    ) -> dict[int, str]:
        for position, image in enumerate(self.open_split(split).images.numpy()):
            images[position] = np.asarray(Image.fromarray(image).resize(images.shape[1:3], Image.Resampling.LANCZOS))
            progress(1)
        return {}

    def check(self) -> tuple[list[str], list[str]]:
        notes = []
        for split in self.splits():
            rows = self.rows(split)
            notes.append(f"{split}: {len(rows):,} images at {self.size} px, {sum(map(len, rows.captions)):,} captions.")
        return [], notes

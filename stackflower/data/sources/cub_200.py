"""CUB-200-2011 birds in the layout of the download, with Reed's captions."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from stackflower.data.archives import open_files
from stackflower.data.caption_files import name_text_file
from stackflower.data.files import Files
from stackflower.data.images import load_square
from stackflower.data.listed import ListedSource
from stackflower.data.rows.containers import RawRow, RawTable, read_text_row
from stackflower.errors import DataError
from stackflower.formats.lines import split_lines
from stackflower.options import Positive, Seed
from stackflower.registry import register
from stackflower.utils.rng import create_rng

Box = tuple[float, float, float, float]  # left, top, width and height
UNSEEN_CLASSES = 50  # number of classes in the test split of StackGAN


@register("data", "cub-200")
class Cub200(ListedSource):
    """CUB-200-2011 (Wah et al. 2011) with the captions of Reed et al. (2016).

    The layout is the folder ``CUB_200_2011`` with ``images/``, ``images.txt``, ``image_class_labels.txt``,
    ``classes.txt``, ``bounding_boxes.txt`` and ``train_test_split.txt``, and ``text_c10/`` inside or beside it.

    Args:
        split: "official" for the split in train_test_split.txt, or "classes" for 50 classes, drawn by `seed`, as
            ``test`` and the other 150 as ``train``, as many as in StackGAN.
        seed: random seed of the classes.
        box: side of the square to crop around the centre of the bird's bounding box, in multiples of the box's longer
            side. StackGAN uses 1.5. 0 crops nothing.
    """

    layout = "CUB-200-2011 with Reed's captions"

    def __init__(
        self,
        *,
        path: str,
        split: Literal["official", "classes"] = "official",
        seed: Seed = 0,
        box: Positive | Literal[0] = 1.5,
        skip_bad: bool = False,
        follow_links: bool = False,
    ):
        super().__init__(path=path, seed=seed, skip_bad=skip_bad, follow_links=follow_links)
        self.by, self.box, self.root = split, box, _find_root(self.files)
        self.as_files = not box

    @classmethod
    def recognises(cls, files: Files) -> bool:
        return files.has_folder(_find_root(files) + "images") and _find_root(files) + "bounding_boxes.txt" in files

    def fingerprint(self, split: str) -> str:
        return f"{super().fingerprint(split)}-{self.box:g}"

    def _read_table(self, name: str) -> dict[int, str]:
        return read_table(self.files, self.root + name)

    @cached_property
    def boxes(self) -> dict[str, Box]:
        """Left, top, width and height of the bird, by image file."""
        return read_boxes(self.files, self.root)

    @cached_property
    def texts(self) -> Files:
        """Files of Reed's captions."""
        for folder in (f"{self.root}text_c10", "text_c10"):
            if self.files.has_folder(folder):
                return self.files.within(folder)
        beside = self.path.parent / "text_c10"
        if beside.is_dir():
            return open_files(beside)
        raise DataError(f"{self.files.path} has no captions: unpack text_c10 of Reed et al. in it or beside it.")

    def list_tables(self) -> Iterator[RawTable]:
        for split in ("train", "test"):
            yield RawTable("", self._list_rows(split), split=split, is_fixed=True)

    def _list_rows(self, split: str) -> Iterator[RawRow]:
        files, classes = self._read_table("images.txt"), self._read_table("classes.txt")
        try:
            labels = {number: int(label) for number, label in self._read_table("image_class_labels.txt").items()}
        except ValueError as error:
            raise DataError(
                f"{self.files.path / self.root}/image_class_labels.txt has a class that is not a number ({error})."
            ) from error
        if self.by == "official":
            parts = self._read_table("train_test_split.txt")
            training = {number for number, part in parts.items() if part == "1"}
        else:
            parts = files
            numbers = sorted(classes)
            drawn = torch.randperm(len(numbers), generator=create_rng(self.seed, 31))[:UNSEEN_CLASSES].tolist()
            unseen = {numbers[position] for position in drawn}
            training = {number for number in files if labels.get(number) not in unseen}
        texts = self.texts
        for number, file in files.items():
            where = f"images/{file}"
            row: dict[str, Any] = {"image": f"{self.root}images/{file}"}
            missing = [
                name
                for name, present in (
                    ("train_test_split.txt", number in parts),
                    ("image_class_labels.txt", number in labels),
                    ("bounding_boxes.txt", not self.box or f"{self.root}images/{file}" in self.boxes),
                )
                if not present
            ]
            if missing:
                if split == "train":
                    yield RawRow(where, row, f"has no line in {missing[0]}")
                continue
            if (number in training) != (split == "train"):
                continue
            name = classes.get(labels[number], str(labels[number]))
            name = name.partition(".")[2].replace("_", " ") or name
            row |= {"label": labels[number], "class_name": name}
            yield read_text_row(where, row, texts, name_text_file(file))

    def square(self, content: bytes, where: Path, row: dict[str, Any], size: int) -> np.ndarray:
        return load_boxed(content, where, self.boxes.get(row["file_name"]) if self.box else None, self.box, size)


def load_boxed(content: bytes, where: Path, box: Box | None, times: float, size: int) -> np.ndarray:
    """Load a square around the centre of a box; without a box, the central square.

    Args:
        content: bytes of the image file.
        where: name of the file, for messages.
        box: left, top, width and height, in pixels.
        times: side of the square, in multiples of the box's longer side.
        size: height and width of the result.

    Returns:
        RGB pixels, uint8 (size, size, 3).
    """
    if box is None:
        return load_square(where, size, content=content)
    left, top, width, height = box
    half = max(width, height) * times / 2
    across, down = left + width / 2, top + height / 2
    return load_square(where, size, content=content, box=(across - half, down - half, across + half, down + half))


def read_table(files: Files, name: str) -> dict[int, str]:
    """Read one of CUB's text files: the rest of each line by the number at its beginning.

    Raises:
        DataError: the file is missing or has another form.
    """
    if name not in files:
        raise DataError(f"{files.path} has no {name}, which is part of CUB-200-2011.")
    try:
        return {
            int(number): rest.strip()
            for number, _, rest in (line.partition(" ") for line in split_lines(files.text(name)))
        }
    except ValueError as error:
        raise DataError(f"{files.path / name} is not the file of CUB-200-2011 ({error}).") from error


def read_boxes(files: Files, root: str) -> dict[str, Box]:
    """Read the left, top, width and height of the bird's box, by image file.

    Args:
        files: files of the data set.
        root: prefix of the names of CUB's files, "" or "CUB_200_2011/".

    Raises:
        DataError: a file is missing or has another form.
    """
    names, boxes = read_table(files, f"{root}images.txt"), {}
    for number, text in read_table(files, f"{root}bounding_boxes.txt").items():
        try:
            left, top, width, height = (float(part) for part in text.split())
        except ValueError as error:
            raise DataError(f"{files.path / 'bounding_boxes.txt'}: image {number} has the box {text!r}.") from error
        if number in names:
            boxes[f"{root}images/{names[number]}"] = left, top, width, height
    return boxes


def _find_root(files: Files) -> str:
    """Return the prefix of the names of CUB's files: the download holds the folder CUB_200_2011 and one more file."""
    return "CUB_200_2011/" if files.has_folder("CUB_200_2011") else ""

"""Folders in the layout of StackGAN and AttnGAN: lists of files, classes and captions as pickles."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from stackflower.data.caption_files import find_by_ending, index_by_ending
from stackflower.data.files import Files
from stackflower.data.listed import ListedSource
from stackflower.data.rows.containers import RawRow, RawTable, read_text_row
from stackflower.data.sources.cub_200 import Box, load_boxed, read_boxes
from stackflower.errors import DataError
from stackflower.formats.pickles import load_pickle
from stackflower.options import Positive
from stackflower.registry import register

NAMES_FILE, CLASSES_FILE, CAPTIONS_FILE = "filenames.pickle", "class_info.pickle", "captions.pickle"


@register("data", "stackgan")
class StackGanFolder(ListedSource):
    """Data as prepared for StackGAN (Zhang et al. 2016) and AttnGAN (Xu et al. 2018).

    The layout is ``train/filenames.pickle`` and ``test/filenames.pickle``, each with a ``class_info.pickle``; the
    images; and captions in text files of the same names or in AttnGAN's ``captions.pickle``.

    Pickles are read without running code from them. Pickled images (``76images.pickle``) are not read: unpack the
    photographs.

    Args:
        box: if the folder holds ``CUB_200_2011``, side of the square to crop around the bird's bounding box, in
            multiples of the box's longer side.
    """

    layout = "a folder of StackGAN's pickles"
    precedence = 5

    def __init__(self, *, path: str, box: Positive = 1.5, skip_bad: bool = False, follow_links: bool = False):
        super().__init__(path=path, skip_bad=skip_bad, follow_links=follow_links)
        self.box = box
        self.as_files = not self.boxes

    @classmethod
    def recognises(cls, files: Files) -> bool:
        return f"train/{NAMES_FILE}" in files

    def list_tables(self) -> Iterator[RawTable]:
        for index, split in enumerate(split for split in ("train", "test") if f"{split}/{NAMES_FILE}" in self.files):
            yield RawTable(f"{split}/{NAMES_FILE}", self._list_rows(split, index), "entry", split=split, is_fixed=True)

    def _load_pickle(self, name: str) -> Any:
        return load_pickle(self.files.read(name), self.files.path / name)

    @cached_property
    def boxes(self) -> dict[str, Box]:
        """Bounding boxes of the birds, if the folder holds CUB."""
        root = "CUB_200_2011/"
        return read_boxes(self.files, root) if f"{root}bounding_boxes.txt" in self.files else {}

    @cached_property
    def images(self) -> dict[str, str]:
        """Image files by the endings of their names."""
        return index_by_ending(self.files.images)

    @cached_property
    def texts(self) -> dict[str, str]:
        """Text files by the endings of their names."""
        return index_by_ending(name for name in self.files.names if name.endswith(".txt"))

    def _read_names(self, split: str) -> list[str]:
        """Read the names of the images of a split."""
        names = self._load_pickle(f"{split}/{NAMES_FILE}")
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise DataError(f"{self.files.path / split / NAMES_FILE} is not a list of names.")
        return names

    def _read_classes(self, split: str, count: int) -> list[int] | None:
        """Read the class of each of `count` images of a split; None if the split has no file of classes."""
        if f"{split}/{CLASSES_FILE}" not in self.files:
            return None
        try:
            classes = [int(number) for number in self._load_pickle(f"{split}/{CLASSES_FILE}")]
        except (TypeError, ValueError) as error:
            raise DataError(f"{self.files.path / split / CLASSES_FILE} is not a list of class numbers.") from error
        if len(classes) != count:
            raise DataError(
                f"{self.files.path / split}: {CLASSES_FILE} has {len(classes):,} entries, but {NAMES_FILE} has "
                f"{count:,}."
            )
        return classes

    def _join_words(self, split: str, index: int, count: int) -> list[list[str]] | None:
        """Decode AttnGAN's captions, of word ids, of the `count` images of a split; None without such a file."""
        if CAPTIONS_FILE not in self.files:
            return None
        content = self._load_pickle(CAPTIONS_FILE)
        try:
            captions, words = content[index], content[2]
            texts = [" ".join(words[int(number)] for number in caption) for caption in captions]
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise DataError(f"{self.files.path / CAPTIONS_FILE} is not in AttnGAN's format ({error!r}).") from error
        per_image = len(texts) // max(1, count)
        if per_image * count != len(texts):
            raise DataError(
                f"{self.files.path / CAPTIONS_FILE} has {len(texts):,} captions for {count:,} images of {split}; every "
                "image must have the same number."
            )
        return [texts[index * per_image : (index + 1) * per_image] for index in range(count)]

    def _list_rows(self, split: str, index: int) -> Iterator[RawRow]:
        names = self._read_names(split)
        classes = self._read_classes(split, len(names))
        in_text_files = any(find_by_ending(self.texts, name) for name in names[:100])
        joined = None if in_text_files else self._join_words(split, index, len(names))
        for number, name in enumerate(names):
            where = f"{split}/{NAMES_FILE}, entry {number + 1}"
            image, text = find_by_ending(self.images, name), find_by_ending(self.texts, name)
            row: dict[str, Any] = {"image": image or name} | ({} if classes is None else {"label": classes[number]})
            if image is None or (text is None and joined is None):
                missing = "image" if image is None else "text"
                yield RawRow(where, row, f"names {name}, but no {missing} file has this name")
            elif joined is not None:
                yield RawRow(where, {**row, "text": joined[number]})
            else:
                yield read_text_row(where, row, self.files, str(text))

    def fingerprint(self, split: str) -> str:
        return f"{super().fingerprint(split)}-{self.box:g}"

    def square(self, content: bytes, where: Path, row: dict[str, Any], size: int) -> np.ndarray:
        return load_boxed(content, where, self.boxes.get(row["file_name"]), self.box, size)

"""The folders that StackGAN and AttnGAN train on: lists of files, classes and captions as pickles."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from stackflower.data.caption_files import find_by_ending, index_by_ending
from stackflower.data.files import Files
from stackflower.data.listed import ListedSource, Listing
from stackflower.data.sources.cub_200 import Box, load_boxed, read_boxes
from stackflower.data.sources.folder import is_image
from stackflower.errors import DataError
from stackflower.formats.pickles import load_pickle
from stackflower.options import Positive
from stackflower.registry import register

NAMES_FILE, CLASSES_FILE, CAPTIONS_FILE = "filenames.pickle", "class_info.pickle", "captions.pickle"


@register("data", "stackgan")
class StackGanFolder(ListedSource):
    """Data as StackGAN (Zhang et al. 2016) and AttnGAN (Xu et al. 2018) prepared them: ``train/filenames.pickle`` and
    ``test/filenames.pickle``, with ``class_info.pickle`` beside each, the images, and their captions in text files of
    the same names or in AttnGAN's ``captions.pickle``.

    Pickles are read without running what they hold. The images as pickles (``76images.pickle``) are not read: unpack
    the photographs.

    Args:
        box: where ``CUB_200_2011`` is in the folder, images are cropped to a square of so many times the longer side of
            the bird's box.
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

    def find_splits(self) -> list[str]:
        return [split for split in ("train", "test") if f"{split}/{NAMES_FILE}" in self.files]

    def _load_pickle(self, name: str) -> Any:
        return load_pickle(self.files.read(name), self.files.path / name)

    @cached_property
    def boxes(self) -> dict[str, Box]:
        """The birds' boxes, where the folder has CUB."""
        root = "CUB_200_2011/"
        return read_boxes(self.files, root) if f"{root}bounding_boxes.txt" in self.files else {}

    @cached_property
    def images(self) -> dict[str, str]:
        """Image files by what their names end in."""
        return index_by_ending(name for name in self.files.names if is_image(name))

    @cached_property
    def texts(self) -> dict[str, str]:
        """Text files by what their names end in."""
        return index_by_ending(name for name in self.files.names if name.endswith(".txt"))

    def _read_names(self, split: str) -> list[str]:
        """Read the list of the images of a split."""
        names = self._load_pickle(f"{split}/{NAMES_FILE}")
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise DataError(f"{self.files.path / split / NAMES_FILE} holds no list of names.")
        return names

    def _read_classes(self, split: str, count: int) -> list[int] | None:
        """Read the class of each of `count` images of a split; None where the split has no file of classes."""
        if f"{split}/{CLASSES_FILE}" not in self.files:
            return None
        try:
            classes = [int(number) for number in self._load_pickle(f"{split}/{CLASSES_FILE}")]
        except (TypeError, ValueError) as error:
            raise DataError(f"{self.files.path / split / CLASSES_FILE} holds no list of class numbers.") from error
        if len(classes) != count:
            raise DataError(f"{self.files.path / split}: {CLASSES_FILE} has {len(classes):,} entries, and {NAMES_FILE} {count:,}.")
        return classes

    def _join_words(self, split: str, count: int) -> list[list[str]] | None:
        """Join AttnGAN's numbers of words to the captions of each of `count` images; None without such a file."""
        if CAPTIONS_FILE not in self.files:
            return None
        content = self._load_pickle(CAPTIONS_FILE)
        try:
            captions, words = content[self.find_splits().index(split)], content[2]
            texts = [" ".join(words[int(number)] for number in caption) for caption in captions]
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise DataError(f"{self.files.path / CAPTIONS_FILE} is not AttnGAN's file of that name ({error!r}).") from error
        each = len(texts) // max(1, count)
        if each * count != len(texts):
            raise DataError(
                f"{self.files.path / CAPTIONS_FILE} has {len(texts):,} captions for {count:,} images of {split}."
            )
        return [texts[place * each : (place + 1) * each] for place in range(count)]

    def read_split(self, split: str) -> Listing:
        listing, names = Listing(self.files), self._read_names(split)
        classes = self._read_classes(split, len(names))
        in_text_files = any(find_by_ending(self.texts, name) for name in names[:100])
        joined = None if in_text_files else self._join_words(split, len(names))
        for place, name in enumerate(names):
            where = f"{split}/{NAMES_FILE}, entry {place + 1}"
            image, text = find_by_ending(self.images, name), find_by_ending(self.texts, name)
            if image is None or (text is None and joined is None):
                missing = "image" if image is None else "text"
                listing.problems.append(f"{where} names {name}, and there is no {missing} of that name.")
                continue
            captions = joined[place] if joined is not None else listing.read_captions(self.files, str(text), where)
            if captions is not None:
                label = {} if classes is None else {"label": classes[place]}
                listing.add({"file_name": image, "text": captions, **label}, where)
        return listing

    def fingerprint(self, split: str) -> str:
        return f"{super().fingerprint(split)}-{self.box:g}"

    def square(self, content: bytes, where: Path, row: dict[str, Any], size: int) -> np.ndarray:
        return load_boxed(content, where, self.boxes.get(row["file_name"]), self.box, size)

"""The folders that StackGAN and AttnGAN train on: lists of files, classes and captions as pickles."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from stackflower.data.files import Files
from stackflower.data.listed import ListedSource, Listing
from stackflower.data.sources.cub_200 import Box, load_boxed, read_boxes
from stackflower.data.sources.folder import is_image
from stackflower.errors import DataError
from stackflower.formats.lines import lines_of
from stackflower.formats.pickles import load_pickle
from stackflower.options import Positive
from stackflower.registry import register

LIST, CLASSES, CAPTIONS = "filenames.pickle", "class_info.pickle", "captions.pickle"


@register("data", "stackgan")
class StackGanFolder(ListedSource):
    """Data as StackGAN (Zhang et al. 2016) and AttnGAN (Xu et al. 2018) prepared them: ``train/filenames.pickle`` and ``test/filenames.pickle``, with
    ``class_info.pickle`` beside each, the images, and their captions in text files of the same names or in AttnGAN's ``captions.pickle``.

    Pickles are read without running what they hold. The images as pickles (``76images.pickle``) are not read: unpack the photographs.

    Args:
        path: the folder, or a zip or tar archive of it.
        box: where ``CUB_200_2011`` is in the folder, images are cropped to a square of so many times the longer side of the bird's box.
        skip_bad: leave out rows and images that can't be used, with a warning, instead of raising DataError.
        follow_links: read images that are links to files out of the folder.
    """

    layout = "a folder of StackGAN's pickles"
    precedence = 5

    def __init__(self, *, path: str, box: Positive = 1.5, skip_bad: bool = False, follow_links: bool = False):
        super().__init__(path=path, skip_bad=skip_bad, follow_links=follow_links)
        self.box = box
        self.as_files = not self.boxes

    @classmethod
    def recognises(cls, files: Files) -> bool:
        return f"train/{LIST}" in files

    def own_splits(self) -> list[str]:
        return [split for split in ("train", "test") if f"{split}/{LIST}" in self.files]

    def _pickle(self, name: str) -> Any:
        return load_pickle(self.files.read(name), self.files.path / name)

    @cached_property
    def boxes(self) -> dict[str, Box]:
        """The birds' boxes, where the folder has CUB."""
        root = "CUB_200_2011/"
        return read_boxes(self.files, root) if f"{root}bounding_boxes.txt" in self.files else {}

    @cached_property
    def known(self) -> tuple[dict[str, str], dict[str, str]]:
        """Images and texts by what their names end in: the name alone, and with one folder and with two."""
        images, texts = dict[str, str](), dict[str, str]()
        for name in self.files.names:
            found = images if is_image(name) else texts if name.endswith(".txt") else None
            if found is not None:
                parts = PurePosixPath(name).with_suffix("").parts
                found |= {"/".join(parts[-count:]): name for count in (1, 2, 3) if count <= len(parts)}
        return images, texts

    def _words(self, split: str, count: int) -> list[list[str]] | None:
        """AttnGAN's captions of each image of a split, where there are any: numbers of words, put together again."""
        if CAPTIONS not in self.files:
            return None
        found = self._pickle(CAPTIONS)
        try:
            captions, words = found[self.own_splits().index(split)], found[2]
            texts = [" ".join(words[int(number)] for number in caption) for caption in captions]
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise DataError(f"{self.files.path / CAPTIONS} is not AttnGAN's file of that name ({error!r}).") from error
        each = len(texts) // max(1, count)
        if each * count != len(texts):
            raise DataError(
                f"{self.files.path / CAPTIONS} has {len(texts):,} captions for {count:,} images of {split}."
            )
        return [texts[place * each : (place + 1) * each] for place in range(count)]

    def read_split(self, split: str) -> Listing:
        listing, (images, texts) = Listing(self.files), self.known
        names = self._pickle(f"{split}/{LIST}")
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise DataError(f"{self.files.path / split / LIST} holds no list of names.")
        classes = self._pickle(f"{split}/{CLASSES}") if f"{split}/{CLASSES}" in self.files else None
        if classes is not None:
            try:
                classes = [int(number) for number in classes]
            except (TypeError, ValueError) as error:
                raise DataError(f"{self.files.path / split / CLASSES} holds no list of class numbers.") from error
            if len(classes) != len(names):
                raise DataError(
                    f"{self.files.path / split}: {CLASSES} has {len(classes):,} entries, and {LIST} {len(names):,}."
                )
        words = None if any(_found(texts, name) for name in names[:100]) else self._words(split, len(names))
        for place, name in enumerate(names):
            where = f"{split}/{LIST}, entry {place + 1}"
            image, text = _found(images, name), _found(texts, name)
            if image is None or (text is None and words is None):
                listing.problems.append(
                    f"{where} names {name}, and there is no {'image' if image is None else 'text'} of that name."
                )
                continue
            row: dict[str, Any] = {"file_name": image}
            if classes is not None:
                row["label"] = classes[place]
            try:
                row["text"] = words[place] if words is not None else lines_of(self.files.text(str(text)))
            except DataError as error:
                listing.problems.append(f"{where}: {error}")
                continue
            listing.add(row, where)
        return listing

    def fingerprint(self, split: str) -> str:
        return f"{super().fingerprint(split)}-{self.box:g}"

    def square(self, content: bytes, where: Path, row: dict[str, Any], size: int) -> np.ndarray:
        return load_boxed(content, where, self.boxes.get(row["file_name"]), self.box, size)


def _found(known: dict[str, str], name: str) -> str | None:
    """The file of a name, by as much of the name as there is."""
    parts = PurePosixPath(name).parts
    keys = ["/".join(parts[-count:]) for count in (3, 2, 1) if count <= len(parts)]
    return next((known[key] for key in keys if key in known), None)

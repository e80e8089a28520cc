"""Text files that list the images of splits, such as ``train.txt``."""

from __future__ import annotations

from functools import cached_property
from posixpath import basename, splitext

from stackflower.data.files import Files
from stackflower.data.rows.names import NameResolver
from stackflower.data.splits import SEPARATORS, find_split
from stackflower.errors import DataError
from stackflower.formats.lines import split_lines

SUFFIXES = (".txt", ".lst")


class SplitLists:
    """Text files that list the images of splits. Their names contain the word of one split.

    A list is read if most of its lines name images, with or without an extension; further words of a line are ignored.

    Args:
        files: files of the data set.
    """

    def __init__(self, files: Files):
        self.files = files

    @cached_property
    def names(self) -> dict[str, str]:
        """Split of each file that may be a list, by its name."""
        texts = [name for name in self.files.names if name.lower().endswith(SUFFIXES) and find_split(basename(name))]
        stems = {splitext(basename(image))[0] for image in self.files.images} if texts else set()
        splits = {name: {find_split(word) for word in SEPARATORS.split(basename(name))} - {None} for name in texts}
        return {
            name: str(find_split(basename(name)))
            for name in texts
            if splitext(basename(name))[0] not in stems and len(splits[name]) == 1
        }

    @cached_property
    def images(self) -> dict[str, list[str]]:
        """Images in each list that can be read, by its name."""
        resolver = NameResolver(self.files)
        listed = {}
        for name in self.names:
            try:
                lines = split_lines(self.files.text(name))
            except DataError:
                continue
            images = [image for line in lines if (image := _find_image(resolver, line)) is not None]
            if images and 2 * len(images) >= len(lines):
                listed[name] = images
        return listed

    def assign(self) -> tuple[dict[str, str], list[str]]:
        """Return the split of each listed image, and a sentence for each image in lists of several splits."""
        homes: dict[str, str] = {}
        problems = []
        for name, images in self.images.items():
            for image in images:
                home = homes.setdefault(image, name)
                if self.names[home] != self.names[name]:
                    problems.append(f"{name} lists {image}, but {home} lists it, too.")
        return {image: self.names[home] for image, home in homes.items()}, problems

    @property
    def at_top(self) -> list[str]:
        """Names of files at the top that may be lists; they are read or reported."""
        return [name for name in self.names if "/" not in name]

    def describe(self, has_splits: bool) -> list[str]:
        """Describe the lists that are read, and the files at the top that may be lists and are not read.

        Args:
            has_splits: whether the splits are given otherwise, so that no list is read.
        """
        if has_splits:
            sentence = f"Not read, because the splits are given otherwise: {', '.join(self.at_top)}."
            return [sentence] if self.at_top else []
        notes = [f"The splits are read from {', '.join(self.images)}."] if self.images else []
        if unread := [name for name in self.at_top if name not in self.images]:
            notes.append(
                f"{', '.join(unread)} may list the images of splits, which is not read: name the splits in a column, "
                "or move the images into folders."
            )
        return notes


def _find_image(resolver: NameResolver, line: str) -> str | None:
    """Return the image that a line, or else its first word, names."""
    for name in dict.fromkeys((line.strip(), line.split()[0])):
        file = resolver.find(name).file
        if file is not None and resolver.files.is_image(file):
            return file
    return None

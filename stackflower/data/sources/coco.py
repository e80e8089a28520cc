"""COCO's captions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from stackflower.data.listed import ListedSource, Listing
from stackflower.errors import DataError
from stackflower.registry import register


@register("data", "coco")
class CocoCaptions(ListedSource):
    """COCO's captions (Chen et al. 2015): ``annotations/captions_train2017.json`` beside ``train2017/``, and the same of ``val2017``, or of another year.

    ``val`` is the split ``validation``. Images without captions are not used. COCO has no classes of whole images, so that there are no labels.

    Args:
        path: the folder that holds ``annotations``.
        skip_bad: leave out images that can't be used, with a warning, instead of raising DataError.
        follow_links: read images that are links to files out of the folder.
    """

    layout = "COCO's captions"

    @classmethod
    def recognises(cls, path: Path) -> bool:
        return any((path / "annotations").glob("captions_train*.json"))

    def splits(self) -> list[str]:
        return [split for split, word in (("train", "train"), ("validation", "val")) if self._files(word)]

    def _files(self, word: str) -> list[Path]:
        return sorted((self.path / "annotations").glob(f"captions_{word}*.json"))

    def read_split(self, split: str) -> Listing:
        file = self._files("val" if split == "validation" else split)[0]
        root = self.path / file.stem.removeprefix("captions_")
        try:
            found = json.loads(file.read_text(encoding="utf-8"))
            names = {one["id"]: str(one["file_name"]) for one in found["images"]}
            captions: dict[Any, list[Any]] = {}
            for one in found["annotations"]:
                captions.setdefault(one["image_id"], []).append(one["caption"])
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise DataError(f"{file} is not a file of COCO's captions ({type(error).__name__}: {error}).") from error
        listing = Listing(root)
        for number, own in captions.items():
            if number not in names:
                listing.problems.append(f"{file.name} has a caption of the image {number}, which it does not list.")
            else:
                listing.add(
                    {"file_name": names[number], "text": own}, f"{file.name}, image {number}", self.follow_links
                )
        silent = len(set(names) - set(captions))
        if silent:
            listing.notes.append(f"{silent:,} images of {file.name} have no caption and are not used.")
        return listing

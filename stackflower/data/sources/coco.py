"""COCO's captions."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import PurePosixPath
from typing import Any

from stackflower.data.files import Files
from stackflower.data.listed import ListedSource, Listing
from stackflower.errors import DataError
from stackflower.registry import register


@register("data", "coco")
class CocoCaptions(ListedSource):
    """COCO's captions (Chen et al. 2015): ``annotations/captions_train2017.json`` beside ``train2017/``, and the same
    of ``val2017``, or of another year.

    ``val`` is the split ``validation``. Images without captions are not used. COCO has no classes of whole images, so
    that there are no labels.

    Args:
        path: the folder that holds ``annotations``, or an archive of it.
    """

    layout = "COCO's captions"

    @classmethod
    def recognises(cls, files: Files) -> bool:
        return bool(_find_annotations(files, "train"))

    def find_splits(self) -> list[str]:
        return [split for split, word in (("train", "train"), ("validation", "val")) if _find_annotations(self.files, word)]

    def read_split(self, split: str) -> Listing:
        file, *others = _find_annotations(self.files, "val" if split == "validation" else split)
        files = self.files.within(PurePosixPath(file).stem.removeprefix("captions_"))
        try:
            content = json.loads(self.files.text(file))
            names = {one["id"]: str(one["file_name"]) for one in content["images"]}
            again = [number for number, times in Counter(one["id"] for one in content["images"]).items() if times > 1]
            captions: dict[Any, list[Any]] = {}
            for one in content["annotations"]:
                captions.setdefault(one["image_id"], []).append(one["caption"])
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise DataError(
                f"{self.files.path / file} is not a file of COCO's captions ({type(error).__name__}: {error})."
            ) from error
        listing, short = Listing(files), PurePosixPath(file).name
        for number in again:
            listing.problems.append(f"{short} lists the image {number} several times.")
            captions.pop(number, None)
        for number, texts in captions.items():
            if number not in names:
                listing.problems.append(f"{short} has a caption of the image {number}, which it does not list.")
            else:
                listing.add({"file_name": names[number], "text": texts}, f"{short}, image {number}")
        if others:
            listing.notes.append(f"{', '.join(others)} is beside {short} and is not read.")
        silent = len(set(names) - set(captions) - set(again))
        if silent:
            listing.notes.append(f"{silent:,} images of {short} have no caption and are not used.")
        return listing


def _find_annotations(files: Files, word: str) -> list[str]:
    """The files of captions of one part."""
    start = f"annotations/captions_{word}"
    return [name for name in files.names if name.startswith(start) and name.endswith(".json")]

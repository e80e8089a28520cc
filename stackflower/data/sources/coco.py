"""Captions of COCO."""

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
    """COCO with captions (Chen et al. 2015).

    The layout is ``annotations/captions_train2017.json`` beside ``train2017/``, and likewise for ``val2017``; other
    years work too. ``val`` is the split ``validation``. Images without captions are not used. COCO has no classes of
    whole images, so this data set has no labels.

    Args:
        path: folder that holds ``annotations``, or an archive of it.
    """

    layout = "COCO's captions"

    @classmethod
    def recognises(cls, files: Files) -> bool:
        return bool(_find_annotations(files, "train"))

    def find_splits(self) -> list[str]:
        return [
            split for split, part in (("train", "train"), ("validation", "val")) if _find_annotations(self.files, part)
        ]

    def read_split(self, split: str) -> Listing:
        file, *others = _find_annotations(self.files, "val" if split == "validation" else split)
        files = self.files.within(PurePosixPath(file).stem.removeprefix("captions_"))
        try:
            content = json.loads(self.files.text(file))
            names = {image["id"]: str(image["file_name"]) for image in content["images"]}
            repeated = [
                number for number, times in Counter(image["id"] for image in content["images"]).items() if times > 1
            ]
            captions: dict[Any, list[Any]] = {}
            for annotation in content["annotations"]:
                captions.setdefault(annotation["image_id"], []).append(annotation["caption"])
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise DataError(
                f"{self.files.path / file} is not a caption file of COCO ({type(error).__name__}: {error})."
            ) from error
        listing, short = Listing(files), PurePosixPath(file).name
        for number in repeated:
            listing.problems.append(f"{short} lists the image {number} several times.")
            captions.pop(number, None)
        for number, texts in captions.items():
            if number not in names:
                listing.problems.append(f"{short} has a caption for the image {number}, which it does not list.")
            else:
                listing.add({"file_name": names[number], "text": texts}, f"{short}, image {number}")
        if others:
            listing.notes.append(f"{short} is used, so {', '.join(others)} is not read.")
        uncaptioned = len(set(names) - set(captions) - set(repeated))
        if uncaptioned:
            listing.notes.append(f"{uncaptioned:,} images of {short} have no caption and are not used.")
        return listing


def _find_annotations(files: Files, part: str) -> list[str]:
    """List the caption files of a part, "train" or "val"."""
    start = f"annotations/captions_{part}"
    return [name for name in files.names if name.startswith(start) and name.endswith(".json")]

"""Captions of COCO."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

from stackflower.data.files import Files
from stackflower.data.listed import ListedSource
from stackflower.data.rows.containers import RawRow, RawTable
from stackflower.errors import DataError
from stackflower.registry import register

ANNOTATIONS = re.compile(r"(?:.*/)?captions_(train|val|test)\w*\.json")


@register("data", "coco")
class CocoCaptions(ListedSource):
    """COCO with captions (Chen et al. 2015).

    The layout is ``annotations/captions_train2017.json`` beside ``train2017/`` or ``images/train2017/``, and likewise
    for ``val2017``; other years work too. ``val`` is the split ``validation``. Images without captions are not used.
    COCO has no classes of whole images, so this data set has no labels.

    Args:
        path: folder that holds ``annotations``, or an archive of it.
    """

    layout = "COCO's captions"
    precedence = 5

    @classmethod
    def recognises(cls, files: Files) -> bool:
        return any(map(ANNOTATIONS.fullmatch, files.names))

    def list_tables(self) -> Iterator[RawTable]:
        read = set[str]()
        for name in self.files.names:
            match = ANNOTATIONS.fullmatch(name)
            if match is None:
                continue
            if match[1] in read:  # of another year
                self.files.refused[name] = "is of the same split as the captions that are used"
                continue
            read.add(match[1])
            part = PurePosixPath(name).stem.removeprefix("captions_")  # folder of the images, such as train2017
            folder = next((each for each in sorted(self.files.folders) if PurePosixPath(each).name == part), "")
            yield RawTable(name, self._read_rows(name), "image", folder, split=match[1], is_fixed=True)

    def _read_rows(self, name: str) -> Iterator[RawRow]:
        """Yield a row for each caption."""
        try:
            content = json.loads(self.files.text(name))
            files: dict[Any, str] = {}
            repeated = dict[Any, None]()
            for image in content["images"]:
                if image["id"] in files:
                    repeated[image["id"]] = None
                files[image["id"]] = str(image["file_name"])
            captions = [(annotation["image_id"], annotation["caption"]) for annotation in content["annotations"]]
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise DataError(
                f"{self.files.path / name} is not a caption file of COCO ({type(error).__name__}: {error})."
            ) from error
        for number in repeated:
            yield RawRow(f"{name}", {}, f"lists the image {number} several times")
        for number, caption in captions:
            if number not in files:
                yield RawRow(f"{name}, image {number}", {}, "has a caption, but is not listed")
            elif number not in repeated:
                yield RawRow(f"{name}, image {number}", {"image": files[number], "text": caption})

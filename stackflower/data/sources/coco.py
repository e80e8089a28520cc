"""Captions of COCO."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

from stackflower.data.files import Files
from stackflower.data.image_formats import TEXT_HEAD_SIZE
from stackflower.data.listed import ListedSource
from stackflower.data.rows.containers import RawRow, RawTable
from stackflower.data.rows.listing import Listing
from stackflower.data.splits import find_split
from stackflower.errors import DataError
from stackflower.options import Below1, Seed
from stackflower.registry import register

USUAL = re.compile(r"(?:.*/)?captions_(?:train|val|test)\w*\.json")
HEAD = re.compile(rb'(?:\xef\xbb\xbf)?\s*\{\s*"(?:info|images|annotations|licenses|categories|type)"')
MOST_FILES = 100  # JSON files up to which each is inspected


@register("data", "coco")
class CocoCaptions(ListedSource):
    """COCO with captions (Chen et al. 2015), and other data in its form, such as VizWiz and nocaps.

    The layout is ``annotations/captions_train2017.json`` beside ``train2017/`` or ``images/train2017/``, and likewise
    for ``val2017``; other years work too. Files of other names are recognised by their contents, and their names or
    their folders give the splits. ``val`` is the split ``validation``. Images without captions and rejected captions
    are not used. COCO has no classes of whole images, so this data set has no labels.

    Args:
        path: folder that holds ``annotations``, or an archive of it.
    """

    layout = "COCO's captions"
    precedence = 5

    def __init__(
        self, *, path: str, held_out: Below1 = 0.0, seed: Seed = 0, skip_bad: bool = False, follow_links: bool = False
    ):
        super().__init__(path=path, held_out=held_out, seed=seed, skip_bad=skip_bad, follow_links=follow_links)
        self.rejected = 0  # number of captions that are marked as rejected

    @classmethod
    def recognises(cls, files: Files) -> bool:
        return any(map(USUAL.fullmatch, files.names)) or any(
            explain_no_captions(files, name) is None for name in find_annotations(files)
        )

    def list_tables(self) -> Iterator[RawTable]:
        read, refused = set[str | None](), self.files.refused
        for name in find_annotations(self.files):
            split = _find_split(name)
            reason = explain_no_captions(self.files, name)
            if reason or split in read:
                refused[name] = reason or "is of the same split as the captions that are used"
                continue
            read.add(split)
            yield RawTable(name, self._read_rows(name), "image", self._find_folder(name), split=split, is_fixed=True)
        if not read:
            reasons = "".join(f" {name} {reason}." for name, reason in list(refused.items())[:1])
            raise DataError(f"{self.files.path} has no captions in the form of COCO.{reasons}")

    def read(self) -> dict[str, Listing]:
        listings = super().read()
        if self.rejected:
            listings["train"].notes.append(f"{self.rejected:,} captions are marked as rejected and are left out.")
        return listings

    def _find_folder(self, name: str) -> str:
        """Return the folder of the images of an annotation file: that of its name, or else its own if it has images."""
        part = PurePosixPath(name).stem.removeprefix("captions_")  # such as train2017
        own = name.rpartition("/")[0]
        has_images = any(image.rpartition("/")[0] == own for image in self.files.images)
        folders = (folder for folder in sorted(self.files.folders) if PurePosixPath(folder).name == part)
        return next(folders, own if has_images else "")

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
            annotations = [each for each in content["annotations"] if each.get("is_rejected") is not True]
            self.rejected += len(content["annotations"]) - len(annotations)
            captions = [(annotation["image_id"], annotation["caption"]) for annotation in annotations]
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


def find_annotations(files: Files) -> list[str]:
    """List JSON files in the form of COCO, those with usual names first."""
    names = [name for name in files.names if name.endswith(".json")]
    others = [name for name in names if not USUAL.fullmatch(name)]
    similar = [name for name in others if _is_similar(files, name)] if len(others) <= MOST_FILES else []
    return [*filter(USUAL.fullmatch, names), *similar]


def _is_similar(files: Files, name: str) -> bool:
    try:
        return HEAD.match(files.head(name, TEXT_HEAD_SIZE)) is not None
    except DataError:
        return False


def explain_no_captions(files: Files, name: str) -> str | None:
    """Return why a file in the form of COCO has no captions, the end of a sentence; None if it has some."""
    content = files.read(name)
    if b'"annotations"' not in content:
        return "has no annotations" if re.search(rb'"images"\s*:\s*\[', content) else None
    return None if b'"caption"' in content else "has annotations such as boxes, but no captions"


def _find_split(name: str) -> str | None:
    """Return the split that the name of a file or of one of its folders contains; None for no split."""
    path = PurePosixPath(name)
    return next(filter(None, map(find_split, (path.stem, *reversed(path.parts[:-1])))), None)

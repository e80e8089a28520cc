"""Flickr30k and Flickr8k in the layouts of their downloads."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace

from stackflower.data.files import Files
from stackflower.data.listed import ListedSource
from stackflower.data.rows.containers import RawRow, RawTable, open_table
from stackflower.registry import register

CAPTIONS = re.compile(r"(?:.*/)?(?:results(?:_\d+)?\.(?:token|csv)|Flickr8k\.token\.txt)")
HEADER = b"image_name| comment_number| comment"  # of results.csv


@register("data", "flickr30k")
class Flickr30k(ListedSource):
    """Flickr30k (Young et al. 2014) and Flickr8k (Hodosh et al. 2013).

    The layout is ``results_20130124.token``, ``results.csv`` or ``Flickr8k.token.txt`` beside a folder of images.
    ``Flickr_8k.trainImages.txt`` and the like give the splits, if they exist.
    """

    layout = "Flickr30k's captions"
    precedence = 5

    @classmethod
    def recognises(cls, files: Files) -> bool:
        return bool(_find_captions(files))

    def list_tables(self) -> Iterator[RawTable]:
        name = _find_captions(self.files)[0]
        table = open_table(
            self.files, name, delimiter="|" if name.endswith(".csv") else "\t", header=name.endswith(".csv")
        )
        yield replace(table, rows=_convert(table), folder="", is_fixed=True)


def _convert(table: RawTable) -> Iterator[RawRow]:
    """Name the columns, and take the number of the caption off the name of the image: ``1.jpg#0``."""
    for place, values, problem in table.rows:
        image, *_, text = map(str, values.values()) if len(values) > 1 else ("", "")
        yield RawRow(place, {"image": image.partition("#")[0].strip(), "text": text}, problem)


def _find_captions(files: Files) -> list[str]:
    """List the files of captions."""
    names = filter(CAPTIONS.fullmatch, files.names)
    return [name for name in names if not name.endswith(".csv") or files.head(name, len(HEADER)) == HEADER]

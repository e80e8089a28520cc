"""Images and captions in a folder, by the Hugging Face ImageFolder convention.

The folder of the images holds ``metadata.jsonl``, ``metadata.csv`` or ``metadata.parquet``, with the columns
``file_name``, ``text`` (a string or a list of strings), and optionally ``label``, ``class_name``, ``attributes`` (an
object of names and values) and ``mentioned_attributes`` (for each caption, the attributes that it mentions). The data
may be in split folders ``train``, ``validation`` and ``test``, each with its own metadata, or with metadata for all
splits beside them.
"""

from __future__ import annotations

from stackflower.data.files import Files
from stackflower.data.rows.listing import Listing
from stackflower.data.sources.table import METADATA, TableSource
from stackflower.data.splits import find_split_folders
from stackflower.registry import register


@register("data", "folder")
class FolderSource(TableSource):
    """Folder in the Hugging Face ImageFolder layout: images and ``metadata.jsonl``, ``.csv`` or ``.parquet``."""

    layout = "an image folder with metadata"
    precedence = 10  # metadata are explicit

    @classmethod
    def recognises(cls, files: Files) -> bool:
        return bool(cls.find_tables(files))

    @classmethod
    def find_tables(cls, files: Files) -> list[str]:
        """Return the names of the metadata at the top level and in split folders."""
        return [names[0] for names in _list_metadata(files) if names]

    def read(self) -> dict[str, Listing]:
        listings = super().read()
        for used, *others in filter(None, _list_metadata(self.files)):
            listings["train"].notes += [f"{name} is not used, because {used} is beside it." for name in others]
        return listings


def _list_metadata(files: Files) -> list[list[str]]:
    """List the metadata at the top level and in each split folder, those to use first."""
    prefixes = ["", *(f"{folder}/" for folder in find_split_folders(files))]
    return [[prefix + name for name in METADATA if prefix + name in files] for prefix in prefixes]

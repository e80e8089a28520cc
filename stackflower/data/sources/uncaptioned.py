"""Images without captions, optionally in one folder per class."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import PurePosixPath

from stackflower.data.files import Files
from stackflower.data.listed import ListedSource
from stackflower.data.rows.checks import list_examples
from stackflower.data.rows.containers import RawRow, RawTable, is_container
from stackflower.data.sources.coco import explain_no_captions, find_annotations
from stackflower.data.sources.sidecar import is_other_text
from stackflower.data.sources.table import TableSource, explain_misfit
from stackflower.data.splits import find_split_folders
from stackflower.errors import ConfigError
from stackflower.options import Below1, Seed
from stackflower.registry import register

UNREAD = (  # may hold captions
    *(".xlsx", ".xls", ".gz", ".tab", ".lst", ".txt", ".pkl", ".pickle", ".xml", ".yaml", ".yml"),
    *(".sqlite", ".sqlite3", ".db", ".mat", ".npy", ".npz", ".h5", ".hdf5", ".lmdb", ".t7", ".tfrecord"),
)
CLASS_NAME = "{class_name}"


@register("data", "images")
class UncaptionedSource(ListedSource):
    """Images without captions, for metrics that need none. With one folder per class, folders give the labels.

    The data may be in split folders ``train``, ``validation`` and ``test``.

    Args:
        caption: caption of every image, such as "a photo of a {class_name}", for training on the images. Default: no
            captions.
    """

    layout = "images without captions"
    precedence = -100  # all other layouts have captions
    has_split_folders = True

    def __init__(
        self,
        *,
        path: str,
        caption: str | None = None,
        held_out: Below1 = 0.0,
        seed: Seed = 0,
        skip_bad: bool = False,
        follow_links: bool = False,
    ):
        super().__init__(path=path, held_out=held_out, seed=seed, skip_bad=skip_bad, follow_links=follow_links)
        self.caption = caption
        self.is_captioned = caption is not None
        self.split_folders = set(find_split_folders(self.files))
        self.has_classes = len(set(map(self._find_class, self.files.images))) > 1
        if caption is not None and CLASS_NAME in caption and not self.has_classes:
            raise ConfigError(f"`data.caption` = {caption!r}: {self.path} has no folder per class.")

    @classmethod
    def recognises(cls, files: Files) -> bool:
        return bool(files.images)

    def list_tables(self) -> Iterator[RawTable]:
        yield RawTable("", map(self._describe_image, self.files.images), is_fixed=True)

    def _describe_image(self, name: str) -> RawRow:
        row, problem = {"image": name}, None
        class_name = self._find_class(name)
        if self.has_classes:
            row["label"] = class_name
        if self.caption is not None:
            row["text"] = self.caption.replace(CLASS_NAME, class_name.replace("_", " "))
            if not class_name and CLASS_NAME in self.caption:
                problem = f"is not in the folder of a class, which `data.caption` = {self.caption!r} needs"
        return RawRow(name, row, problem)

    def _find_class(self, name: str) -> str:
        """Return the folder name of an image, or "" for an image at the top or directly in a split folder."""
        folders = PurePosixPath(name).parts[:-1]
        return folders[-1] if len(folders) > 1 or (folders and folders[0] not in self.split_folders) else ""

    def explain_no_captions(self) -> str:
        advice = ""
        if self.has_classes:
            advice = f' To build captions from the folder names, use `data.caption="a photo of a {CLASS_NAME}"`.'
        return super().explain_no_captions() + advice + self._describe_other_files()

    def _describe_other_files(self) -> str:
        """Return sentences, each after a space, about files that may hold captions."""
        annotations = ((name, explain_no_captions(self.files, name)) for name in find_annotations(self.files))
        if boxes := [f" {name} {reason}." for name, reason in annotations if reason]:
            return boxes[0]
        if fitting := TableSource.list_fitting(self.files):
            table = f"`data.name=table` `data.table={shlex.quote(fitting[0])}`"
            return f" {len(fitting)} tables hold captions ({list_examples(fitting)}); {table} reads the first."
        if tables := [name for name in self.files.names if is_container(name)]:
            reason = f"{list_examples(tables)} can't be read as captions: {explain_misfit(self.files, tables[0])}"
            table = f"`data.name=table` and `data.table={shlex.quote(tables[0])}`"
            return f" {reason} Options of a table need {table}, too."
        others = [name for name in self.files.names if name.lower().endswith(UNREAD) and not is_other_text(name)]
        return f" {list_examples(others)} can't be read; save captions as CSV." if others else ""

"""Tables of images and captions: CSV, TSV, JSON, Parquet or Arrow files with any column names."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import PurePosixPath

from stackflower.data.archives import open_files
from stackflower.data.files import Files, Folder
from stackflower.data.listed import ListedSource
from stackflower.data.rows.assembly import Assembler
from stackflower.data.rows.cells import show
from stackflower.data.rows.columns import USUAL_NAMES, is_usual
from stackflower.data.rows.containers import (
    ARROW_SUFFIXES,
    JSON_SUFFIXES,
    TEXT_SUFFIXES,
    RawTable,
    is_container,
    open_table,
)
from stackflower.data.rows.detection import INSPECTED_ROWS
from stackflower.data.rows.listing import Listing
from stackflower.data.splits import find_folder_split, find_split, find_split_folders
from stackflower.errors import ColumnError, DataError, MissingDependency
from stackflower.formats.lines import split_lines
from stackflower.options import Below1, Seed
from stackflower.registry import register

METADATA = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
MOST_TABLES = 20  # tables up to which each is tried
NOT_TABLES = (
    "dataset_info.json",
    "dataset_dict.json",
    "dataset_infos.json",
    "state.json",
    "index.json",
    "prepared.json",
)


@register("data", "table")
class TableSource(ListedSource):
    """Tables of images and captions: ``.csv``, ``.tsv``, ``.jsonl``, ``.json``, ``.parquet`` or ``.arrow``.

    Rows of the same image are merged. Cells may contain images, as in the Parquet files of the Hugging Face hub and in
    the output of ``save_to_disk`` of `datasets`.

    Args:
        path: a table, with names of images relative to its folder; or a folder or an archive with tables.
        table: name of the table in the folder. Default: the tables that name images.
        image_column: column of the images. Default: the column whose cells name images.
        text_column: column of the captions. Default: a column with a usual name, or the only one with sentences.
        label_column: column of the classes, numbers or names. Default: a column with a usual name, if there is one.
        split_column: column that holds train, validation or test. Default: the column "split", if there is one. The
            names of tables and folders may also give the splits, such as train.csv and test.csv.
        delimiter: character between cells. Default: a tab for .tsv; otherwise the most frequent of comma, tab,
            semicolon and bar in the first line.
        encoding: encoding of the tables, such as cp1252. Default: UTF-8, or UTF-16 with a byte order mark.
    """

    layout = "a table of images and captions"
    precedence = -5
    has_split_folders = True

    def __init__(
        self,
        *,
        path: str,
        table: str | None = None,
        image_column: str | None = None,
        text_column: str | None = None,
        label_column: str | None = None,
        split_column: str | None = None,
        delimiter: str | None = None,
        encoding: str | None = None,
        held_out: Below1 = 0.0,
        seed: Seed = 0,
        skip_bad: bool = False,
        follow_links: bool = False,
    ):
        self.table, self.delimiter, self.encoding = table, delimiter, encoding
        super().__init__(path=path, held_out=held_out, seed=seed, skip_bad=skip_bad, follow_links=follow_links)
        self.columns = {"image": image_column, "text": text_column, "label": label_column, "split": split_column}

    def open(self, follow_links: bool) -> Files:
        if self.path.is_file() and is_container(self.path.name):
            self.table = self.path.name
            return Folder(self.path.parent, follow_links)
        return open_files(self.path, follow_links, enters=True)

    @classmethod
    def recognises(cls, files: Files) -> bool:
        names = cls.find_tables(files)
        return bool(names) and (any(name.endswith(ARROW_SUFFIXES) for name in names) or bool(files.images))

    @classmethod
    def find_tables(cls, files: Files) -> list[str]:
        """Return the names of the tables, all of one suffix, that name images.

        They are in the top folder or the split folders; elsewhere, a single table with images and captions is read.
        """
        tops = {"", *find_split_folders(files)}
        names = [name for name in files.names if is_container(name) and not _is_other(name)]
        near = [name for name in names if name.rpartition("/")[0] in tops or name.lower().endswith(ARROW_SUFFIXES)]
        by_suffix: dict[str, list[str]] = {}
        for name in near:
            by_suffix.setdefault(PurePosixPath(name).suffix.lower(), []).append(name)
        groups = [group for group in map(_select_tables, by_suffix.values()) if group]
        tables = [group for group in groups if PurePosixPath(group[0]).suffix.lower() not in JSON_SUFFIXES]
        if len(groups) == len(tables) == 1:  # no choice, so the table need not be read
            return tables[0]
        selected = next((group for group in groups if _names_images(files, group[0])), tables[0] if tables else [])
        fitting = [] if selected else cls.list_fitting(files)
        return fitting if len(fitting) == 1 else selected

    @classmethod
    def list_fitting(cls, files: Files) -> list[str]:
        """List the tables, at most one folder deep, whose first rows hold or name images and have captions."""
        names = [name for name in files.names if is_container(name) and not _is_other(name) and name.count("/") < 2]
        return [name for name in names if explain_misfit(files, name) is None] if len(names) <= MOST_TABLES else []

    def read(self) -> dict[str, Listing]:
        try:
            return super().read()
        except ColumnError as error:
            names = [self.table] if self.table is not None else self.find_tables(self.files)
            others = [name for name in names if str(self.files.path / name) not in str(error)]
            for name in set(names) - set(others):
                if error.content == "image" and not error.candidates:
                    self._check_names(name)
                    self._check_classes(name)
            others.sort(key=lambda name: find_split(str(_find_split_word(name))) != "train")
            if not others:
                raise
            message = f"{error} `data.table={others[0]}` reads that table alone."
            raise ColumnError(message, error.content, error.candidates) from error

    def _check_names(self, name: str) -> None:
        """Check that delimited text is more than captions in the order of the images.

        Raises:
            DataError: its lines are captions alone.
        """
        if not name.lower().endswith(TEXT_SUFFIXES):
            return
        lines = split_lines(self.files.text(name, self.encoding))
        names, *cells = (re.split(r"[,\t;|]", line) for line in lines[: INSPECTED_ROWS + 1])
        is_header = any(is_usual(content, cell) for content in USUAL_NAMES for cell in names)
        if not is_header and all(" " in first.strip() for first, *_ in (names, *cells)):
            raise DataError(
                f"{self.files.path / name} has one caption per line and no image names ({len(lines):,} lines, "
                f"{len(self.files.images):,} images); write file_name,text in its first line, and the name of an image "
                "and its caption in each other line."
            )

    def _check_classes(self, name: str) -> None:
        """Check that the rows of a table are not of classes, which are folders of images.

        Raises:
            DataError: a column holds the names of folders alone.
        """
        table = open_table(self.files, name, None, self.delimiter, self.encoding)
        rows = [row.values for row in islice(iter(table.rows), INSPECTED_ROWS)]
        classes = {PurePosixPath(folder).name.lower() for folder in self.files.folders}
        for column in rows[0] if rows else ():
            cells = [str(row.get(column)).strip().lower() for row in rows]
            if len(cells) > 1 and classes.issuperset(cells):
                raise DataError(
                    f"{self.files.path / name} has a row for each class, such as {show(rows[0][column])}, not for each "
                    "image. Write a row for each image, with the columns file_name and text; or build captions from "
                    '`data.name=images` and `data.caption="a photo of a {class_name}"`.'
                )

    def list_tables(self) -> Iterator[RawTable]:
        if self.table is not None and self.table not in self.files:
            raise DataError(f"{self.files.path} has no table {self.table}; select one with `data.table=NAME`.")
        names = [self.table] if self.table is not None else self.find_tables(self.files)
        if not names:
            reasons = "".join(f" {name} {reason}." for name, reason in list(self.files.refused.items())[:1])
            tables = [name for name in self.files.names if is_container(name) and not _is_other(name)]
            misfits = (explain_misfit(self.files, name) for name in tables[:1])
            reasons += "".join(f" {reason}" for reason in misfits if reason)
            raise DataError(f"{self.files.path} has no table of images; select one with `data.table=NAME`.{reasons}")
        for name in names:
            table = open_table(self.files, name, _find_split_word(name), self.delimiter, self.encoding)
            yield replace(table, folder=_find_images(self.files, table.folder))


def _select_tables(names: list[str]) -> list[str]:
    """Select the tables to read among those of one suffix: the only one, or those of splits and shards."""
    if len(names) == 1 or names[0].lower().endswith(ARROW_SUFFIXES):
        return names
    of_splits = [name for name in names if _find_split_word(name)]
    return of_splits if any(find_split(str(_find_split_word(name))) == "train" for name in of_splits) else []


def _find_split_word(name: str) -> str | None:
    """Return the last part of a path that names a split; None if there is none."""
    parts = [PurePosixPath(name).name.partition(".")[0], *reversed(PurePosixPath(name).parts[:-1])]
    return next((part for part in parts if find_split(part)), None)


def _is_other(name: str) -> bool:
    """Return whether a file is known not to be a table of images."""
    base = PurePosixPath(name).name
    return base in METADATA or base in NOT_TABLES or base.endswith("_stats.json") or base.startswith("cache-")


def _names_images(files: Files, name: str) -> bool:
    """Return whether the first rows of a table contain images or name existing ones, or perhaps do."""
    try:
        return bool(_read_head(files, name).groups)
    except ColumnError as error:
        return bool(error.candidates)
    except (DataError, MissingDependency):
        return False


def explain_misfit(files: Files, name: str) -> str | None:
    """Return a sentence that says why a table can't be read as captions of images; None if it can."""
    try:
        assembler = _read_head(files, name)
    except (DataError, MissingDependency) as error:
        return str(error)
    if assembler.groups:
        return None if 1 in assembler.has_text else f"{files.path / name} has no captions."
    return assembler.problems[0][1] if assembler.problems else f"{files.path / name} has no rows."


def _read_head(files: Files, name: str) -> Assembler:
    """Read the first rows of a table."""
    table, assembler = open_table(files, name), Assembler(files)
    table.rows = list(islice(iter(table.rows), INSPECTED_ROWS))
    table.folder = _find_images(files, table.folder)
    assembler.read(table)
    return assembler


def _find_images(files: Files, folder: str) -> str:
    """Return the folder of the images of a table: its own, or else the data set, unless it is the folder of a split."""
    is_own = any(image.startswith(f"{folder}/") for image in files.images)
    return folder if is_own or any(map(find_folder_split, folder.split("/"))) else ""

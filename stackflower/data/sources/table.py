"""Images and captions named by a table: CSV, TSV or Parquet with columns of any names."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from stackflower.data.archives import open_files
from stackflower.data.files import Files, Folder
from stackflower.data.listed import ListedSource, Listing
from stackflower.data.sources.folder import METADATA, SPLIT_FOLDERS, find_split, is_image, list_splits, select_split
from stackflower.data.tables import build_column_error, find_column, parse_whole_number, read_csv, read_parquet
from stackflower.errors import DataError
from stackflower.options import Below1, Seed
from stackflower.registry import register

SUFFIXES = (".csv", ".tsv", ".parquet")
DELIMITERS = ",\t;|"
Row = dict[str, Any] | str  # a row, or what is wrong with it
FLICKR = "captions.txt"  # the table of Flickr8k
INSPECTED_ROWS = 50  # number of rows to inspect to find the columns


@register("data", "table")
class TableSource(ListedSource):
    """Table beside images: ``captions.csv``, ``.tsv`` or ``.parquet``, with one row per image or per caption.

    Args:
        path: the table, which names images relative to its folder; or a folder or an archive that holds the table.
        table: name of the table in the folder. Default: the only one.
        image_column: column of the image files. Default: a column with a usual name, or whose cells are names of
            images.
        text_column: column of the captions. Default: a column with a usual name.
        label_column: column of the classes, numbers or names. Default: a column with a usual name, if there is one.
        split_column: column that holds train, validation or test. Default: the column "split", if there is one. The
            splits may also be separate tables, such as train.csv and test.csv.
        delimiter: character between cells. Default: a tab in .tsv, otherwise the most frequent of comma, tab, semicolon
            and bar in the first line.
    """

    layout = "a table of images and captions"
    precedence = -5

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
        held_out: Below1 = 0.0,
        seed: Seed = 0,
        skip_bad: bool = False,
        follow_links: bool = False,
    ):
        self.table = table
        super().__init__(path=path, held_out=held_out, seed=seed, skip_bad=skip_bad, follow_links=follow_links)
        self.columns = {"image": image_column, "text": text_column, "label": label_column, "split": split_column}
        self.delimiter = delimiter
        self._classes: dict[str, int] = {}
        self._read: dict[Path, list[tuple[int, Row]]] = {}
        self._numeric: bool | None = None
        tables = [name for name in _list_tables(self.files) if name in self.files]
        if self.table is None and len(tables) == 1 and self._find_table("train") is None:
            self.table = tables[0]

    def open(self, follow_links: bool) -> Files:
        if self.path.is_file() and (self.path.suffix.lower() in SUFFIXES or self.path.name == FLICKR):
            self.table = self.path.name
            return Folder(self.path.parent, follow_links)
        return open_files(self.path, follow_links)

    @classmethod
    def recognises(cls, files: Files) -> bool:
        return (
            len(_list_tables(files)) == 1 or any(name.lower().startswith("train.") for name in _list_tables(files))
        ) and any(is_image(name) for name in files.names)

    def find_splits(self) -> list[str]:
        if self.table not in self.files:
            separate = [split for split in SPLIT_FOLDERS if self._find_table(split)]
            return separate if "train" in separate else list_splits(self.files)
        rows = [row for _, row in self._read_rows(self.files, str(self.table)) if isinstance(row, dict)]
        column = self._find_columns(self.files.path / str(self.table), rows[:INSPECTED_ROWS])["split"]
        splits = [
            split for split in SPLIT_FOLDERS if column and any(self._is_in_split(row, column, split) for row in rows)
        ]
        return splits if "train" in splits else ["train"]

    def _find_table(self, split: str) -> str | None:
        """Return the table that is named after a split, such as ``train.csv``; None without one."""
        return next((name for name in _list_tables(self.files) if find_split(name.rpartition(".")[0]) == split), None)

    def _is_in_split(self, row: dict[str, Any], column: str, split: str) -> bool:
        """Return whether a row belongs to a split; rows of unknown splits are for training."""
        value = str(row.get(column) or "").strip().lower()
        return split == (find_split(value) or "train")

    def _build_label_reader(self, cells: list[Any]) -> Callable[[Any], dict[str, Any]]:
        """Build a function that reads a cell of the label column.

        If all cells of the training split are numbers, they are the labels. Otherwise they are names, which are
        numbered in the order of their first use.
        """
        if self._numeric is None:  # the training split is read first
            self._numeric = all(cell in (None, "") or parse_whole_number(cell) is not None for cell in cells)

        def read(cell: Any) -> dict[str, Any]:
            if cell in (None, ""):
                return {}
            if self._numeric:
                whole = parse_whole_number(cell)
                return {"label": cell if whole is None else whole}
            return {"label": self._classes.setdefault(str(cell), len(self._classes)), "class_name": str(cell)}

        return read

    def read_split(self, split: str) -> Listing:
        if split != "train":
            self.get_listing("train")  # numbers the classes
        beside = self.table in self.files or self._find_table("train") is not None
        files = self.files if beside else select_split(self.files, split)
        name = self.table or self._find_table(split) or next(iter(_list_tables(files)), None)
        if name is None or name not in files:
            raise DataError(
                f"{files.path} has no table {name or 'that ends in ' + ', '.join(SUFFIXES)}; name the table with "
                "`data.table=NAME`."
            )
        rows = self._read_rows(files, name)
        columns = self._find_columns(
            files.path / name, [row for _, row in rows[:INSPECTED_ROWS] if isinstance(row, dict)]
        )
        listing = Listing(files)
        rows = [
            (number, row)
            for number, row in rows
            if isinstance(row, str) or not columns["split"] or self._is_in_split(row, columns["split"], split)
        ]
        captions, labels, lines = self._group_by_image(rows, columns, name, listing)
        for image, texts in captions.items():
            if image and image in files and not is_image(image):
                listing.problems.append(f"{name}, line {lines[image]} names {image}, which is not an image.")
            else:
                listing.add(
                    {"file_name": image, "text": texts, **labels.get(image, {})}, f"{name}, line {lines[image]}"
                )
        if not rows:
            listing.problems.append(f"{files.path / name} has no rows.")
        unnamed = [file for file in files.names if is_image(file) and file not in captions]
        if unnamed:
            listing.notes.append(
                f"{len(unnamed):,} images in {files.path} have no row in {name} and are not used, such as {unnamed[0]}."
            )
        return listing

    def _group_by_image(
        self, rows: list[tuple[int, Row]], columns: dict[str, str], name: str, listing: Listing
    ) -> tuple[dict[str, list[str]], dict[str, dict[str, Any]], dict[str, int]]:
        """Group the rows by image, and note what is wrong in the listing.

        Returns:
            The captions, the class and the first line number of each image.
        """
        read_label = self._build_label_reader([row.get(columns["label"]) for _, row in rows if isinstance(row, dict)])
        captions: dict[str, list[str]] = {}
        labels: dict[str, dict[str, Any]] = {}
        lines: dict[str, int] = {}
        uncaptioned: list[tuple[int, str]] = []
        for number, row in rows:
            if isinstance(row, str):
                listing.problems.append(f"{name}, line {number} {row}.")
                continue
            image = _find_image(str(row.get(columns["image"]) or ""), listing.files)
            text, label = row.get(columns["text"]), read_label(row.get(columns["label"]))
            if labels.setdefault(image, label) != label:
                listing.problems.append(f"{name}, line {number} gives {image} another class than line {lines[image]}.")
                continue
            lines.setdefault(image, number)
            if not text:
                uncaptioned.append((number, image))
            texts = [text] if isinstance(text, str) else text if isinstance(text, list) else []
            captions.setdefault(image, []).extend(texts)
        uncaptioned = [(number, image) for number, image in uncaptioned if any(captions[image])]
        if uncaptioned:
            listing.notes.append(
                f"{len(uncaptioned):,} lines of {name} have no caption, such as line {uncaptioned[0][0]}."
            )
        return captions, labels, lines

    def _read_rows(self, files: Files, name: str) -> list[tuple[int, Row]]:
        """Read the rows of a table, once."""
        if files.path / name not in self._read:
            self._read[files.path / name] = list(self._parse(files, name))
        return self._read[files.path / name]

    def _parse(self, files: Files, name: str) -> Iterator[tuple[int, Row]]:
        if name.lower().endswith(".parquet"):
            return read_parquet(files.read(name), files.path / name)
        text = files.text(name)
        first = text.lstrip("\r\n").partition("\n")[0]
        guessed = "\t" if name.lower().endswith(".tsv") else max(DELIMITERS, key=first.count)
        return read_csv(text, files.path / name, self.delimiter or guessed)

    def _find_columns(self, where: Path, rows: list[dict[str, Any]]) -> dict[str, str]:
        """Find the columns of images, captions, labels and splits.

        Raises:
            DataError: the column of images or captions is unclear, or the table lacks a column that the user chose.
        """
        names = list(dict.fromkeys(key for row in rows for key in row))
        columns = {content: find_column(content, chosen, names, where) for content, chosen in self.columns.items()}
        if not columns["image"]:
            image_columns = (name for name in names if rows and all(is_image(str(row.get(name, ""))) for row in rows))
            columns["image"] = next(image_columns, "")
        for content in ("image", "text"):
            if not columns[content]:
                raise build_column_error(content, names, where)
        return columns


def _list_tables(files: Files) -> list[str]:
    """List the tables at the top level of a folder, or of its training folder."""
    training = select_split(files, "train")
    return [
        name
        for name in training.names
        if "/" not in name and name not in METADATA and (name.lower().endswith(SUFFIXES) or name == FLICKR)
    ]


def _find_image(cell: str, files: Files) -> str:
    """Return the file that a cell names, relative to the table or to a folder with a usual name beside it."""
    name = files.normalise(cell)
    if name in files or not cell:
        return name
    for folder in ("images", "Images", "imgs", "flickr30k_images"):
        if f"{folder}/{name}" in files:
            return f"{folder}/{name}"
    return name

"""Assembly of table rows into the rows of splits."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from stackflower.data.files import Files
from stackflower.data.json_lines import JsonLines
from stackflower.data.rows.arrow import ImageCell
from stackflower.data.rows.cells import is_missing, show
from stackflower.data.rows.checks import check_row, describe_left_out, list_examples, merge_row
from stackflower.data.rows.columns import STANDARD_COLUMNS, Columns, normalise_row
from stackflower.data.rows.containers import RawRow, RawTable
from stackflower.data.rows.detection import INSPECTED_ROWS, find_columns
from stackflower.data.rows.listing import FilesAndCells, Listing
from stackflower.data.rows.names import NameResolver, are_same, read_name, show_name
from stackflower.data.rows.split_lists import SplitLists
from stackflower.data.splits import KEYWORDS, assign_splits, find_split
from stackflower.errors import DataError

Key = tuple[str | None, str]  # raw value of the split, and name of the file or cell


class Assembler:
    """Assembler of table rows into the rows of splits.

    The tables are read once, row by row. Rows are stored in a temporary file until all tables are read, because the
    rows of an image need not be adjacent, and the assignment of splits depends on all names of splits.

    Args:
        files: files of the data set.
        chosen: names of columns that the user chose (see `find_columns`).
        folders: split folders. A row without a split takes the split of the folder that contains its image.
        reports_unused: whether to report images that no row names.
        needs_captions: whether an image without captions is a problem.
    """

    def __init__(
        self,
        files: Files,
        chosen: Mapping[str, str | None] | None = None,
        folders: Iterable[str] = (),
        reports_unused: bool = True,
        needs_captions: bool = True,
    ):
        self.files = FilesAndCells(files)
        self.chosen, self.folders, self.reports_unused = chosen or {}, list(folders), reports_unused
        self.needs_captions = needs_captions
        self.stored_rows = JsonLines()
        self.places = JsonLines()  # location of each row, for messages
        self.has_text = bytearray()  # whether each row has a caption
        self.groups: dict[Key, int | list[int]] = {}  # numbers of the rows in `stored_rows`
        self.problems: list[tuple[str | None, str]] = []  # raw value of the split, and a sentence
        self.notes: list[str] = []
        self.named_files: set[str] = set()  # files that rows refer to
        self.renamed_files: dict[str, str] = {}  # by file: the name in the metadata that differs from its path
        self.labels_are_numbers = True
        self.split_columns = set[str]()  # columns that give splits
        self.declared_splits = set[str]()  # splits of tables, which may have no rows
        self.uncaptioned: list[str] = []  # rows without a caption whose images have captions in other rows
        self.outside_images: list[str] = []  # images that a layout lists outside the split folders

    def read(self, table: RawTable) -> None:
        """Read the rows of a table.

        Raises:
            ColumnError: the columns are unclear.
        """
        resolver, rows = NameResolver(self.files.files, table.folder), iter(table.rows)
        head = list(itertools.islice(rows, INSPECTED_ROWS))
        samples = [row.values for row in head if row.problem is None]
        columns = STANDARD_COLUMNS
        if not table.is_fixed and samples:
            where = self.files.path / table.name
            columns = find_columns(samples, self.chosen, lambda cell: self._rate_image(resolver, cell), where)
            self.notes += columns.notes
        elif not table.is_fixed and not head:
            self.problems.append((table.split, f"{self.files.path / table.name} has no rows."))
        if table.split is not None:
            self.declared_splits.add(table.split)
        known = {name for values in samples for name in values}
        for row in itertools.chain(head, rows):
            if not table.is_fixed and not row.values.keys() <= known:
                known |= row.values.keys()
                columns = columns.extend(known)
            self._store_row(table, columns, resolver, row)

    def _rate_image(self, resolver: NameResolver, cell: Any) -> tuple[int, str]:
        """Return 2 and the file for a cell that holds an image or names it exactly, 1 for a similar name, or else 0."""
        if isinstance(cell, ImageCell) and cell.is_filled:
            return 2, ""
        match = resolver.find(read_name(cell))
        if match.file is None or not self.files.is_image(match.file):
            return 0, ""
        return 1 + match.is_exact, match.file

    def _store_row(self, table: RawTable, columns: Columns, resolver: NameResolver, row: RawRow) -> None:
        """Normalise and store a row, or record what is wrong with it."""
        where, values, split = table.locate(row), row.values, table.split
        if not is_missing(values.get(columns.split)) and columns.split:
            split = str(values[columns.split]).strip()
            self.split_columns.add(columns.split)
        image, problem = ("", row.problem) if row.problem else self._find_image(table, columns, resolver, row)
        if split is None and self.folders and not row.problem:
            split = top if (top := image.partition("/")[0]) in self.folders else None
            if split is None and not problem and "train" in map(find_split, self.folders):
                if table.is_fixed:
                    self.outside_images.append(image)
                    return
                problem = f"names {image}, which is outside the split folders ({', '.join(self.folders)})"
        kept: dict[str, Any] = {"file_name": image}
        if not problem and table.is_checked:
            kept |= {name: cell for name, cell in values.items() if name != "image"}
        elif not problem:
            kept, problem = _check(image, *normalise_row(values, columns, table.class_names.get(columns.label, ())))
        if problem:
            self.problems.append((split, f"{where} {problem}."))
            return
        self.labels_are_numbers &= not isinstance(kept.get("label"), str)
        number, key_of_group = len(self.stored_rows), (split, image)
        self.stored_rows.append(kept)
        self.places.append(where)
        self.has_text.append(bool(kept["text"]))
        before = self.groups.setdefault(key_of_group, number)
        if before != number:
            self.groups[key_of_group] = [before, number] if isinstance(before, int) else [*before, number]

    def _find_image(
        self, table: RawTable, columns: Columns, resolver: NameResolver, row: RawRow
    ) -> tuple[str, str | None]:
        """Return the name of a row's image, and the problem with it (the end of a sentence) or None."""
        column, cell = columns.image, row.values.get(columns.image)
        if isinstance(cell, ImageCell) and cell == (None, False):
            cell = None
        if isinstance(cell, ImageCell) and cell.is_filled and table.arrow_rows is not None:
            return self.files.add_cell(table.name, table.arrow_rows, column, int(row.place)), None
        name = read_name(cell)
        if not name:
            return "", f'has no "{column}"' if cell is None else f'has no image: "{column}" is {show(cell)}'
        match = resolver.find(name)
        if match.file is None and columns.label and not is_missing(label := row.values.get(columns.label)):
            in_class = resolver.find(f"{label}/{name}")  # equal names in the folders of classes
            match = in_class if in_class.file is not None else match
        if match.file is None:
            return name, match.problem
        is_named_exactly = match.file in self.named_files and match.file not in self.renamed_files
        self.named_files.add(match.file)
        if not self.files.is_image(match.file):
            return match.file, f"names {match.file}, which {self.files.explain_not_image(match.file)}"
        if match.is_exact:
            other = self.renamed_files.get(match.file)
        else:
            other = match.file if is_named_exactly else self.renamed_files.setdefault(match.file, name)
        if other is not None and not are_same(name, other):  # two names for one file: perhaps an image is missing
            return match.file, f"names {show_name(name)}, but {match.file} was found for {show_name(other)}"
        return match.file, None

    # ---- after all tables

    def finish(self) -> dict[str, Listing]:
        """Return the checked rows of each split; the training split always exists."""
        self._read_split_lists()
        splits = self._assign_splits()
        self._check_split_columns()
        with_rows = (value for value, _ in itertools.chain(self.groups, self.problems))
        silent = self._find_uncaptioned_splits(splits)
        present = {splits[value] for value in itertools.chain(with_rows, self.declared_splits)} - silent
        listings = {split: Listing(self.files) for split in KEYWORDS if split == "train" or split in present}
        name_label = self._build_namer(splits)
        left_out, homes = Counter[str | None](), dict[str, str | None]()
        for (value, image), group in self.groups.items():
            numbers, split = [group] if isinstance(group, int) else group, splits[value]
            if split in silent:
                continue
            if split is None:
                left_out[value] += len(numbers)
            elif (home := homes.setdefault(image, value)) != value:
                where = self.places[numbers[0]]
                listings[split].problems.append(
                    f"{where} gives {image} the split {value!r}, but another row gives it {home!r}."
                )
            elif isinstance(group, int) and name_label is None and self.has_text[group]:
                listings[split].copy(self.stored_rows, group, image)  # as it is
            else:
                self._add_image(listings[split], numbers, name_label)
        for value, sentence in self.problems:
            if splits[value] not in silent:
                listings[splits[value] or "train"].problems.append(sentence)
        listings["train"].notes += [
            *self.notes,
            *describe_left_out(left_out),
            *self._describe_files(),
            *self._describe_training_split(splits),
            *(f"The {split} split of {self.files.path} has no captions and is left out." for split in sorted(silent)),
        ]
        return listings

    def _read_split_lists(self) -> None:
        """Take the splits from lists of images, if nothing else gives splits."""
        lists = SplitLists(self.files.files)
        has_splits = bool(self.declared_splits) or any(value is not None for value, _ in self.groups)
        self.notes += lists.describe(has_splits)
        splits, problems = ({}, []) if has_splits else lists.assign()
        self.problems += [(None, problem) for problem in problems]
        if splits:
            self.groups = {(splits.get(image), image): group for (_, image), group in self.groups.items()}

    def _assign_splits(self) -> dict[str | None, str | None]:
        """Map raw values of splits to splits; the key None stands for rows without a value."""
        with_rows = (value for value, _ in (*self.groups, *self.problems) if value is not None)
        values = dict.fromkeys((*with_rows, *self.declared_splits))
        rest = any(value is None for value, _ in self.groups)
        splits: dict[str | None, str | None] = dict(assign_splits([*values, ""] if rest else values).items())
        has_training = any(splits.get(value) == "train" for value, _ in self.groups)
        return {**splits, None: None if has_training and rest else "train"}

    def _find_uncaptioned_splits(self, splits: Mapping[str | None, str | None]) -> set[str]:
        """Return the splits for evaluation whose rows have no captions, if the training split has captions."""
        if not self.needs_captions:
            return set()
        captioned, others = set[str | None](), set[str]()
        for (value, _), group in self.groups.items():
            if any(self.has_text[number] for number in ([group] if isinstance(group, int) else group)):
                captioned.add(splits[value])
            elif split := splits[value]:
                others.add(split)
        return others - captioned if "train" in captioned else set()

    def _describe_training_split(self, splits: Mapping[str | None, str | None]) -> list[str]:
        """Report a validation or test split that is used for training, because no split is called train."""
        values = {value for value, _ in self.groups if value is not None and splits[value] == "train"}
        used = sorted(value for value in values if find_split(value) in ("validation", "test"))
        return [f"{used[0]!r} is used for training, because no split is called train."] if used else []

    def _check_split_columns(self) -> None:
        """Report a split column whose cells name no split.

        Raises:
            DataError: the user chose the column.
        """
        values = sorted({value for value, _ in self.groups if value is not None})
        if not self.split_columns or any(map(find_split, values)):
            return
        sentence = (
            f"The column {sorted(self.split_columns)[0]!r} of {self.files.path} holds "
            f"{', '.join(show(value) for value in values[:5])}, none of train, validation and test"
        )
        if self.chosen.get("split"):
            raise DataError(f"{sentence}; write these words in its cells.")
        self.notes.append(f"{sentence}, so all rows are for training.")

    def _build_namer(self, splits: Mapping[str | None, str | None]) -> Callable[[dict[str, Any]], None] | None:
        """Build a function that replaces the class name in a row with a number; None if all labels are numbers.

        If only some labels are numbers, all are names. Names are numbered in order of first use in the training split.
        """
        if self.labels_are_numbers:
            return None
        training = (group for (value, _), group in self.groups.items() if splits[value] == "train")
        numbers = (number for group in training for number in ([group] if isinstance(group, int) else group))
        labels = [row["label"] for row in map(self.stored_rows.load, numbers) if "label" in row]
        if labels and all(isinstance(label, int) for label in labels):  # the checks report names in other splits
            return lambda row: None
        classes = {name: number for number, name in enumerate(dict.fromkeys(map(str, labels)))}
        if numbered := sum(isinstance(label, int) for label in labels):
            name = next(label for label in labels if not isinstance(label, int))
            self.notes.append(
                f"{numbered:,} of {len(labels):,} labels in {self.files.path} are numbers and the others names, such "
                f"as {name!r}; all are used as class names."
            )

        def name_label(row: dict[str, Any]) -> None:
            if "label" in row:
                row.setdefault("class_name", str(row["label"]))
                row["label"] = classes.setdefault(str(row["label"]), len(classes))

        return name_label

    def _add_image(
        self, listing: Listing, numbers: list[int], name_label: Callable[[dict[str, Any]], None] | None
    ) -> None:
        """Merge the rows of an image, and add it to a listing."""
        rows, places = [self.stored_rows[number] for number in numbers], [self.places[number] for number in numbers]
        if name_label is not None:
            for row in rows:
                name_label(row)
        merged = dict(rows[0])
        texts = {tuple(merged["text"])}
        for row, place in zip(rows[1:], places[1:], strict=True):
            if "label" in row and merged.setdefault("label", row["label"]) != row["label"]:
                listing.problems.append(f"{place} gives {row['file_name']} another class than {places[0]}.")
            elif (text := tuple(row["text"])) not in texts:  # skip repeated rows
                texts.add(text)
                merge_row(merged, row)
        empty = [place for row, place in zip(rows, places, strict=True) if not row["text"]]
        if self.needs_captions and len(empty) == len(rows):
            listing.problems += [f"{place} has no caption." for place in empty]
            return
        self.uncaptioned += empty if self.needs_captions else []
        listing.add(merged, places[0], self.needs_captions)

    def _describe_files(self) -> list[str]:
        """Describe unused images, rows without captions, and images whose names in the metadata differ."""
        notes = []
        unused = [name for name in self.files.files.images if name not in self.named_files]
        if unused and self.reports_unused:
            examples = list_examples(unused)
            notes.append(f"{len(unused):,} images in {self.files.path} have no row and are not used ({examples}).")
        if self.outside_images:
            notes.append(
                f"{len(self.outside_images):,} images in {self.files.path} are outside the split folders and are not "
                f"used, such as {self.outside_images[0]}."
            )
        if self.uncaptioned:
            notes.append(f"{len(self.uncaptioned):,} rows have no caption, such as {self.uncaptioned[0]}.")
        if self.renamed_files:
            file, name = next(iter(self.renamed_files.items()))
            notes.append(
                f"{len(self.renamed_files):,} images in {self.files.path} have other names in the metadata, such as "
                f"{name} for {file}."
            )
        return notes


def _check(image: str, row: dict[str, Any], problem: str | None) -> tuple[dict[str, Any], str | None]:
    """Check a normalised row; a class name as its label is allowed, and is numbered after all rows are read."""
    label = row.get("label")
    name = {"label": row.pop("label")} if isinstance(label, str) else {}
    checked, check_problem = check_row({"file_name": image, **row}, needs_caption=bool(row["text"]))
    return {**checked, **name}, problem or check_problem

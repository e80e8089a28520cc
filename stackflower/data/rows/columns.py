"""Columns of tables: their usual names, and the normalisation of their cells."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

from stackflower.data.rows.cells import is_missing, parse_literal, parse_texts, parse_whole_number, show

USUAL_NAMES = {  # as `normalise_name` writes them
    "image": (
        "file_name",
        "filename",
        "file_path",
        "filepath",
        "file",
        "image",
        "image_path",
        "imagepath",
        "image_name",
        "image_file",
        "path",
        "img",
        "img_path",
        "image_id",
        "img_id",
        "id",
        "key",
    ),
    "text": (
        "caption",
        "captions",
        "caption_text",
        "text",
        "texts",
        "sentence",
        "sentences",
        "description",
        "comment",
        "prompt",
        "title",
        "raw",
        "tags",
    ),
    "label": ("label", "class", "class_id", "category_id", "target", "category", "species", "class_name"),
    "split": ("split", "subset", "partition"),
}
NUMBERED_TEXT = re.compile(r"(?:text|caption|sentence|comment|description)s?_?\d+")
OPTIONAL_COLUMNS = ("class_name", "attributes", "mentioned_attributes")  # found by name only
JSON_SCALARS = frozenset({str, int, float, bool, type(None)})


@dataclass(frozen=True)
class Columns:
    """Column names of a table; "" for a missing column. Several columns may contain captions."""

    image: str
    texts: tuple[str, ...]
    label: str = ""
    split: str = ""
    others: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()  # sentences about columns that were chosen by their cells
    inspected: frozenset[str] = frozenset()  # columns whose cells were inspected

    def extend(self, names: Iterable[str]) -> Columns:
        """Return the columns with missing ones, except those of images and captions, found among `names`."""
        usual = {normalise_name(name): name for name in names}
        taken = {self.image, *self.texts, *self.inspected}
        label = self.label or find_usual("label", usual, taken)
        split = self.split or find_usual("split", usual, {*taken, label})
        return replace(
            self, label=label, split=split, others={key: usual[key] for key in OPTIONAL_COLUMNS if key in usual}
        )


# columns of rows that a layout builds itself
STANDARD_COLUMNS = Columns("image", ("text",), "label", "split", {key: key for key in OPTIONAL_COLUMNS})


@lru_cache
def name_columns(names: tuple[str, ...], text: str | None = None, label: str | None = None) -> Columns:
    """Find the columns of captions and classes by name only, such as the keys of a JSON object.

    Args:
        names: names of all columns.
        text: name of the column of the captions, if the user chose it.
        label: name of the column of the classes, if the user chose it.
    """
    usual = {normalise_name(name): name for name in reversed(names)}
    texts = [usual[name] for name in USUAL_NAMES["text"] if name in usual]
    texts = texts or [column for name, column in reversed(usual.items()) if NUMBERED_TEXT.fullmatch(name)]
    label = label or find_usual("label", usual, set(texts))
    return Columns("", (text,) if text else tuple(texts[:1]), label).extend(names)


def normalise_row(
    values: Mapping[str, Any], columns: Columns, class_names: Sequence[str] = ()
) -> tuple[dict[str, Any], str | None]:
    """Normalise the cells of a row.

    Args:
        values: cells by column.
        columns: columns of the table.
        class_names: class names by the number in the label column.

    Returns:
        The row, with the captions as "text" and, if available, "label" (a number or a name), "class_name",
        "attributes" and "mentioned_attributes"; and what is wrong with it (the end of a sentence) or None.
    """
    row: dict[str, Any] = {"text": []}
    for column in columns.texts:
        texts = parse_texts(values.get(column))
        if texts is None:
            shown = show(values[column])
            return row, f'has no caption: "{column}" must be a string or a list of strings, not {shown}'
        row["text"] += texts
    cell = values.get(columns.label) if columns.label else None
    if not is_missing(cell):
        label = parse_whole_number(cell)
        if label is None and not isinstance(cell, (str, bool)):
            return row, f"has the label {show(cell)}; a label must be an integer or a name"
        if label is not None and 0 <= label < len(class_names):
            row["class_name"] = class_names[label]
        row["label"] = label if label is not None else cell.strip() if isinstance(cell, str) else cell
    for key, column in columns.others.items():
        if not is_missing(values.get(column)):
            row.setdefault(key, _to_json(parse_literal(values[column])))
    return row, None


def _to_json(value: Any) -> Any:
    """Convert a cell to JSON types; cells of Parquet files may be dates or decimals."""
    if type(value) in JSON_SCALARS:
        return value
    if isinstance(value, Mapping):
        pairs = ((str(key), item) for key, item in value.items() if item is not None)
        return {key: item if type(item) in JSON_SCALARS else _to_json(item) for key, item in pairs}
    if isinstance(value, (list, tuple)):
        return [item if type(item) in JSON_SCALARS else _to_json(item) for item in value]
    return value if isinstance(value, (str, int, float)) else str(value)


def is_usual(content: str, name: str) -> bool:
    """Return whether a name is a usual one for a column of "image", "text", "label" or "split"."""
    return normalise_name(name) in USUAL_NAMES[content]


def normalise_name(name: str) -> str:
    """Return the name of a column in lower case, with underscores for spaces, hyphens and dots."""
    return re.sub(r"[\s\-.]+", "_", str(name).strip().lower())


def find_usual(content: str, usual: Mapping[str, str], taken: set[str]) -> str:
    """Return the first column with a usual name that is not taken; "" if there is none.

    Args:
        content: "image", "text", "label" or "split".
        usual: columns by their normalised names.
        taken: columns with other contents.
    """
    return next((usual[name] for name in USUAL_NAMES[content] if usual.get(name, "") not in {"", *taken}), "")

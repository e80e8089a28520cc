"""Detection of the columns of images, captions, classes and splits in tables."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import median
from typing import Any

from stackflower.data.rows.arrow import ImageCell
from stackflower.data.rows.cells import is_missing, parse_texts, parse_whole_number
from stackflower.data.rows.columns import (
    NUMBERED_TEXT,
    OPTIONAL_COLUMNS,
    USUAL_NAMES,
    Columns,
    find_usual,
    normalise_name,
)
from stackflower.data.rows.names import has_image_extension, looks_like_file
from stackflower.data.splits import KEYWORDS, find_split
from stackflower.errors import ColumnError

INSPECTED_ROWS = 50  # number of rows to inspect for the detection of columns
RateImage = Callable[[Any], tuple[int, str]]
FLAGS = frozenset({"0", "1", "0.0", "1.0", "true", "false", "yes", "no"})
FIRST_COLUMN = "1"  # of a table without a header
MIN_SENTENCE = 4  # words from which a text counts as a sentence


def find_columns(
    rows: Sequence[Mapping[str, Any]],
    chosen: Mapping[str, str | None],
    rate_image: RateImage,
    where: object,
) -> Columns:
    """Find the columns of a table by the user's choice, by usual names, and by the cells of its first rows.

    Args:
        rows: first rows of the table.
        chosen: names of columns that the user chose, by "image", "text", "label" and "split".
        rate_image: function that returns how well a cell names an existing image, 0 for not at all, and its file, ""
            for an image in the cell.
        where: name of the table, for messages.

    Raises:
        ColumnError: the column of images or captions is unclear, or the table lacks a column that the user chose.
    """
    names, usual = _list_names(rows, chosen, where)
    if not names:  # every row is empty, and is reported as such
        return Columns("file_name", ("text",))
    files = {name for name in names if _holds(_is_image_or_file, rows, name)}
    labels = [usual[name] for name in USUAL_NAMES["label"] if name in usual and usual[name] not in files]
    image = chosen.get("image")
    if image is None:
        taken = {*labels, *(chosen.get(content) for content in ("label", "split"))}
        image = _find_image_column(rows, [name for name in names if name not in taken], usual, files, rate_image, where)
    if image is None:
        raise build_column_error("image", names, where)
    label = chosen.get("label") or next((name for name in labels if name != image), "")
    split = chosen.get("split") or find_usual("split", usual, {image, label})
    notes = []
    if normalise_name(image) not in USUAL_NAMES["image"] and chosen.get("image") is None:
        notes.append(_describe_guess("image", image, where))
    if chosen.get("text") == image:
        sentence = f"The column {image!r} of {where} can't hold both the images and the captions"
        raise ColumnError(f"{sentence}; choose another with `data.text_column=NAME`.", "text", names)
    texts, rivals = _choose_texts(rows, names, usual, chosen.get("text"), {image, label, split})
    if not texts:
        raise build_column_error("text", names, where, rivals or ())
    if rivals is not None:
        notes.append(_describe_guess("text", texts[0], where, rivals))
    # last, because captions may be such words, too
    if not split and (split := _guess_split_column(rows, names, {image, label, *texts})):
        notes.append(_describe_guess("split", split, where))
    flags = [name for name in names if find_split(name) and _holds(_is_flag, rows, name, share=1.0)]
    if flags and not split:
        notes.append(
            f"The column {flags[0]!r} of {where} may tell the splits, and is not read: write train, validation or test "
            'in a column "split".'
        )
    others = {key: usual[key] for key in OPTIONAL_COLUMNS if key in usual}
    return Columns(image, texts, label, split, others, tuple(notes), frozenset(names))


def find_text_columns(rows: Sequence[Mapping[str, Any]], chosen: str | None, where: object) -> tuple[str, ...] | None:
    """Find the columns of captions in a table without images; None if they are unclear.

    Args:
        rows: rows of the table.
        chosen: name of the column, if the user chose it.
        where: name of the table, for messages.

    Raises:
        ColumnError: the table lacks the column that the user chose.
    """
    names, usual = _list_names(rows, {"text": chosen}, where)
    return _choose_texts(rows, names, usual, chosen, set())[0] or None


def _list_names(
    rows: Iterable[Mapping[str, Any]], chosen: Mapping[str, str | None], where: object
) -> tuple[list[str], dict[str, str]]:
    """Return the names of all columns, and by their normalised forms.

    Raises:
        ColumnError: the table lacks a column that the user chose.
    """
    names = list(dict.fromkeys(key for row in rows for key in row))
    for content, column in chosen.items():
        if column is not None and column not in names:
            raise ColumnError(f"{where} has no column {column!r}; its columns are {_join(names)}.", content)
    return names, {normalise_name(name): name for name in reversed(names)}


def _choose_texts(
    rows: Sequence[Mapping[str, Any]],
    names: Sequence[str],
    usual: Mapping[str, str],
    chosen: str | None,
    taken: set[str],
) -> tuple[tuple[str, ...], list[str] | None]:
    """Choose the columns of captions by the user's choice, by usual names or by cells.

    Of several columns with usual names, the first with sentences is chosen, or else the one with the most words; names
    of files are not captions.

    Returns:
        The columns, empty if they are unclear; and the other columns that may hold captions, None if the choice is
        certain.
    """
    if chosen:
        return (chosen,), None
    free = {name: column for name, column in usual.items() if column not in taken}
    named = [free[name] for name in USUAL_NAMES["text"] if name in free]
    numbered = [column for name, column in reversed(free.items()) if NUMBERED_TEXT.fullmatch(name)]
    filled = [column for column in named if any(parse_texts(row.get(column)) for row in rows)]
    words = {column: _count_words(rows, column) for column in filled if not _holds(has_image_extension, rows, column)}
    if words:
        sentences = [column for column, count in words.items() if count >= MIN_SENTENCE]
        best = sentences[0] if sentences else max(words, key=lambda column: words[column])
        others = [column for column in (*filled, *numbered) if column != best]
        return (best,), others or None
    if numbered:
        return tuple(numbered), None
    if named and not filled:
        return tuple(named[:1]), None
    guesses = [name for name in names if name not in taken and _holds_sentences([row.get(name) for row in rows])]
    if len(guesses) != 1:
        return (), guesses
    return tuple(guesses), None if guesses[0] in named else []


def _count_words(rows: Sequence[Mapping[str, Any]], column: str) -> float:
    """Return the median number of words in a column's cells."""
    texts = [parse_texts(row.get(column)) for row in rows]
    return median(len(text[0].split()) for text in texts if text)


def _describe_guess(content: str, column: str, where: object, others: Sequence[str] = ()) -> str:
    what = {"text": "captions", "image": "images", "split": "splits"}[content]
    rest = f", not from {', '.join(map(repr, others))}" if others else ""
    advice = f"`data.{content}_column=NAME` chooses another"
    return f"The {what} of {where} are read from the column {column!r}{rest}; {advice}."


def _find_image_column(
    rows: Sequence[Mapping[str, Any]],
    names: Sequence[str],
    usual: Mapping[str, str],
    files: set[str],
    rate_image: RateImage,
    where: object,
) -> str | None:
    """Return the column whose cells match existing images best; None if it is unclear.

    Numbers match images by chance, so a column of whole numbers needs a usual name, and is used only if no column holds
    names of files. If no name of a file matches, the first of these columns is returned, whose rows are then refused.

    Args:
        rows: first rows of the table.
        names: columns that may hold the images.
        usual: columns by their normalised names.
        files: columns that hold names of files or paths.
        rate_image: see `find_columns`.
        where: name of the table, for messages.

    Raises:
        ColumnError: several columns without a usual name hold different images.
    """
    usual_names = [usual[name] for name in (*USUAL_NAMES["image"], FIRST_COLUMN) if usual.get(name) in names]
    columns = list(dict.fromkeys((*usual_names, *names)))
    excluded = set(columns) - set(usual_names) if files.isdisjoint(columns) else set(columns)
    candidates = [
        name for name in columns if name not in excluded or not _holds(_is_whole_number, rows, name, share=1.0)
    ]
    ratings: dict[str, int] = {}
    images: dict[str, list[str | None]] = {}  # None for a cell without an image
    for column in candidates:
        rated = [rate_image(row.get(column)) for row in rows]
        ratings[column] = sum(rating for rating, _ in rated)
        images[column] = [(file or column) if rating else None for rating, file in rated]
        if ratings[column] == 2 * len(rows) and column in usual_names:  # similar names need not be searched for
            return column
    if best := max(ratings.values(), default=0):
        good = [column for column in candidates if 2 * ratings[column] >= best]
        chosen = max([column for column in good if column in usual_names] or good, key=lambda column: ratings[column])
        rival = next((column for column in good if _differ(images[column], images[chosen])), None)
        if rival is not None and chosen not in usual_names:
            sentence = f"{where} has two columns of images, {chosen!r} and {rival!r}"
            raise ColumnError(f"{sentence}; choose with `data.image_column=NAME`.", "image", (chosen, rival))
        return chosen
    missing = [column for column in columns if column in files]
    return next(iter(missing or [name for name in usual_names[:1] if normalise_name(name) not in ("id", "key")]), None)


def _guess_split_column(rows: Sequence[Mapping[str, Any]], names: Sequence[str], taken: set[str]) -> str:
    """Return the first column whose cells are all names of splits, or ""."""
    words = {word for keywords in KEYWORDS.values() for word in keywords}
    for name in names:
        cells = {str(row.get(name)).strip().lower() for row in rows if not is_missing(row.get(name))}
        if name not in taken and cells and cells <= words:
            return name
    return ""


def _holds(matches: Callable[[Any], bool], rows: Sequence[Mapping[str, Any]], column: str, share: float = 0.5) -> bool:
    """Return whether a function is true for most cells of a column, except missing ones."""
    cells = [row[column] for row in rows if not is_missing(row.get(column))]
    return bool(cells) and sum(map(matches, cells)) >= max(1, share * len(cells))


def _differ(images: Sequence[str | None], others: Sequence[str | None]) -> bool:
    """Return whether two columns hold different images."""
    return any(one != other and None not in (one, other) for one, other in zip(images, others, strict=True))


def _is_image_or_file(cell: Any) -> bool:
    return (isinstance(cell, ImageCell) and cell.is_filled) or looks_like_file(cell)


def _is_flag(cell: Any) -> bool:
    return str(cell).strip().lower() in FLAGS


def _is_whole_number(cell: Any) -> bool:
    return parse_whole_number(cell) is not None


def _holds_sentences(cells: Sequence[Any]) -> bool:
    texts = [" ".join(parse_texts(cell) or []) for cell in cells if not is_missing(cell)]
    return bool(texts) and sum(len(text.split()) > 1 for text in texts) * 2 > len(texts)


def build_column_error(
    content: str, names: Sequence[str], where: object, candidates: Sequence[str] = ()
) -> ColumnError:
    """Build the error for a column that the user has to choose."""
    return ColumnError(
        f"Can't tell which column of {where} holds the {content}s (columns: {_join(names)}). "
        f"Use `data.{content}_column=NAME`.",
        content,
        candidates,
    )


def _join(names: Iterable[str]) -> str:
    """Join the names of columns; those with commas, or without letters or digits, in quotation marks."""
    return ", ".join(name if re.fullmatch(r"[^,\"']*\w[^,\"']*", name) else repr(name) for name in names) or "none"

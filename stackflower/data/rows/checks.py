"""Checks of rows, and their combination into the rows of a split."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from sys import intern
from typing import Any

from stackflower.data.json_lines import Column
from stackflower.data.rows.cells import show
from stackflower.data.source import Rows

MAX_WORDS = 1_000  # of a caption
MAX_LABEL = 2**31 - 1
KEYS = (  # other keys are ignored
    "file_name",
    "text",
    "label",
    "class_name",
    "attributes",
    "mentioned_attributes",
)
LONE_SURROGATE = re.compile("[\ud800-\udfff]")  # half of a surrogate pair


def check_row(row: dict[str, Any], needs_caption: bool = True) -> tuple[dict[str, Any], str | None]:
    """Check a row of metadata.

    Args:
        row: the row.
        needs_caption: whether a row without captions is a problem.

    Returns:
        The row with known keys only and "text" as a list of captions, and what is wrong with it (the end of a sentence)
        or None.
    """
    texts, problem = _check_captions(row) if needs_caption or row.get("text") else ([], None)
    problem = problem or _check_label(row) or _check_attributes(row, texts)
    kept = {key: row[key] for key in KEYS if key in row} | {"text": texts}
    if problem is None:  # cells of Parquet files may be dates or decimals
        if "class_name" in row:
            kept["class_name"] = str(row["class_name"])
        if row.get("attributes") is not None:
            kept["attributes"] = {name: str(value) for name, value in row["attributes"].items()}
    return kept, problem


def _check_captions(row: dict[str, Any]) -> tuple[list[str], str | None]:
    texts = row.get("text")
    texts = [texts] if isinstance(texts, str) else texts
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
        return [], 'has no caption: "text" must be a string or a list of strings'
    if any(not text.strip() for text in texts):
        return [], "has an empty caption"
    if _has_lone_surrogate(texts):
        return [], "has a caption that is not valid Unicode (half of a surrogate pair)"
    longest = max(len(text.split()) for text in texts)
    if longest > MAX_WORDS:
        return [], f"has a caption of {longest:,} words; at most {MAX_WORDS:,} are allowed"
    return [" ".join(text.split()) for text in texts], None


def _check_label(row: dict[str, Any]) -> str | None:
    label = row.get("label", 0)
    if isinstance(label, bool) or not isinstance(label, int) or not 0 <= label <= MAX_LABEL:
        return f"has the label {show(label)}; a label must be an integer from 0 to {MAX_LABEL:,}"
    return None


def _check_attributes(row: dict[str, Any], texts: list[str]) -> str | None:
    attributes, mentioned = row.get("attributes"), row.get("mentioned_attributes")
    if attributes is not None and not isinstance(attributes, dict):
        return f"has the attributes {show(attributes)}; they must be an object of names and values"
    words = [row.get("class_name"), *(attributes or {}), *(attributes or {}).values()]
    if _has_lone_surrogate(words):
        return "has a class name or an attribute that is not valid Unicode (half of a surrogate pair)"
    if mentioned is None:
        return None
    is_list = isinstance(mentioned, list) and len(mentioned) == len(texts)
    names = list(chain(*mentioned)) if is_list and all(isinstance(one, list) for one in mentioned) else [None]
    if not all(isinstance(name, str) for name in names):
        return (
            f'has a "mentioned_attributes" that is not a list of attribute names for each of its {len(texts)} captions'
        )
    if _has_lone_surrogate(names):
        return 'has a "mentioned_attributes" that is not valid Unicode (half of a surrogate pair)'
    return None


def merge_row(merged: dict[str, Any], row: Mapping[str, Any]) -> None:
    """Add the captions and attributes of another row of the same image."""
    before, mentioned = len(merged["text"]), (merged.get("mentioned_attributes"), row.get("mentioned_attributes"))
    merged["text"] = [*merged["text"], *row["text"]]
    if any(names is not None for names in mentioned):
        lengths = (before, len(row["text"]))
        merged["mentioned_attributes"] = [
            item
            for names, length in zip(mentioned, lengths, strict=True)
            for item in (names if isinstance(names, list) else [[]] * length)
        ]
    if isinstance(row.get("attributes"), dict) and isinstance(merged.get("attributes", {}), dict):
        merged["attributes"] = {**row["attributes"], **merged.get("attributes", {})}
    if "class_name" in row:
        merged.setdefault("class_name", row["class_name"])


def _has_lone_surrogate(words: Iterable[object]) -> bool:
    text = " ".join([word for word in words if isinstance(word, str)])
    return not text.isascii() and LONE_SURROGATE.search(text) is not None


def build_rows(rows: Sequence[dict[str, Any]]) -> Rows:
    """Combine checked rows into the rows of a split. Labels and file names are kept only if every row has them."""
    labels, class_names, columns = list[int](), dict[int, str](), dict[str, list[str]]()
    labelled = mentioned = named = True
    for number, row in enumerate(rows):
        labelled, mentioned = labelled and "label" in row, mentioned and row.get("mentioned_attributes") is not None
        named = named and "file_name" in row
        if labelled:
            labels.append(row["label"])
            if "class_name" in row:
                class_names[row["label"]] = row["class_name"]
        attributes = row.get("attributes") or {}
        for name, value in attributes.items():
            if name not in columns:
                columns[name] = [""] * number
            columns[name].append(intern(value))
        for name in columns.keys() - attributes.keys():
            columns[name].append("")
    return Rows(
        captions=Column(rows, "text"),
        labels=labels if labelled else None,
        class_names=class_names if labelled else {},
        attributes={name: columns[name] for name in sorted(columns)},
        mentioned_attributes=Column(rows, "mentioned_attributes") if mentioned and len(rows) else None,
        files=Column(rows, "file_name") if named else None,
    )


def list_examples(names: Sequence[str], most: int = 3) -> str:
    """Join the first `most` names, and show whether more follow."""
    return ", ".join([*names[:most], "…"] if len(names) > most else names)


def join_problems(problems: Sequence[str], most: int = 20) -> str:
    """Join the first `most` sentences, one per line, and append the number of the others."""
    more = f"\n… and {len(problems) - most:,} more." if len(problems) > most else ""
    return "\n".join(problems[:most]) + more


def describe_left_out(left_out: Mapping[str | None, int]) -> list[str]:
    """Describe rows that belong to no split."""
    return [
        f"{count:,} rows of the split {value!r} are left out, because it is none of train, validation and test."
        if value
        else f"{count:,} rows without a split are left out, because others are for training."
        for value, count in left_out.items()
    ]

"""Rows of metadata: parsed, checked and put together, whichever files they come from."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from sys import intern
from typing import Any

from stackflower.data.json_lines import Column
from stackflower.data.source import Rows

LONGEST = 1_000  # words of a caption
LARGEST_LABEL = 2**31 - 1
KEYS = (
    "file_name",
    "text",
    "label",
    "class_name",
    "attributes",
    "mentioned_attributes",
)  # of a row, others are not read
HALF = re.compile("[\ud800-\udfff]")  # of a surrogate pair


def parsed(text: str) -> tuple[dict[str, Any], str | None]:
    """A row from JSON, and what is wrong with it or None."""
    try:
        row = json.loads(text)
    except RecursionError:
        return {}, "is nested too deeply"
    except ValueError as error:  # a number of more digits than Python reads is one too
        return {}, f"is not JSON ({getattr(error, 'msg', None) or str(error).split(';')[0]})"
    return (row, None) if isinstance(row, dict) else ({}, "is not a JSON object")


def checked(row: dict[str, Any]) -> tuple[dict[str, Any], str | None]:
    """What is used of a row, with its captions as a list ``text``, and what is wrong with it or None."""
    texts, problem = _captions(row)
    problem = problem or _label_problem(row) or _attribute_problem(row, texts)
    kept = {key: row[key] for key in KEYS if key in row} | {"text": texts}
    if problem is None:  # a Parquet file has dates and decimals too
        if "class_name" in row:
            kept["class_name"] = str(row["class_name"])
        if row.get("attributes") is not None:
            kept["attributes"] = {name: str(value) for name, value in row["attributes"].items()}
    return kept, problem


def _captions(row: dict[str, Any]) -> tuple[list[str], str | None]:
    texts = row.get("text")
    texts = [texts] if isinstance(texts, str) else texts
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
        return [], 'has no caption: "text" must be a string or a list of strings'
    if any(not text.strip() for text in texts):
        return [], "has an empty caption"
    if any(not text.isascii() and HALF.search(text) for text in texts):
        return [], "has a caption with half of a surrogate pair, which is no text"
    longest = max(len(text.split()) for text in texts)
    if longest > LONGEST:
        return [], f"has a caption of {longest:,} words; at most {LONGEST:,} are allowed"
    return [" ".join(text.split()) for text in texts], None


def _label_problem(row: dict[str, Any]) -> str | None:
    label = row.get("label", 0)
    if isinstance(label, bool) or not isinstance(label, int) or not 0 <= label <= LARGEST_LABEL:
        shown = (
            str(label)
            if isinstance(label, int) and abs(label) < 10**20
            else repr(label)
            if isinstance(label, str)
            else "it has"
        )
        return f"has the label {shown}; a label is a whole number from 0 to {LARGEST_LABEL:,}"
    return None


def _attribute_problem(row: dict[str, Any], texts: list[str]) -> str | None:
    attributes, mentioned = row.get("attributes"), row.get("mentioned_attributes")
    if attributes is not None and not isinstance(attributes, dict):
        return f"has the attributes {attributes!r}; allowed is an object of names to values"
    words = [row.get("class_name"), *(attributes or {}), *(attributes or {}).values()]
    if any(isinstance(word, str) and not word.isascii() and HALF.search(word) for word in words):
        return "has a class name or an attribute with half of a surrogate pair, which is no text"
    if mentioned is None:
        return None
    lists = (
        isinstance(mentioned, list) and len(mentioned) == len(texts) and all(isinstance(one, list) for one in mentioned)
    )
    if not lists or not all(isinstance(name, str) for one in mentioned for name in one):
        return (
            f'has a "mentioned_attributes" that is not a list of attribute names for each of its {len(texts)} captions'
        )
    if any(not name.isascii() and HALF.search(name) for one in mentioned for name in one):
        return 'has a "mentioned_attributes" with half of a surrogate pair, which is no text'
    return None


def together(rows: Sequence[dict[str, Any]]) -> Rows:
    """Checked rows as the rows of a split. Labels count only where all have one, and names of files."""
    labels, class_names, every = list[int](), dict[int, str](), dict[str, list[str]]()
    labelled = mentioned = named = True
    for number, row in enumerate(rows):
        labelled, mentioned = labelled and "label" in row, mentioned and row.get("mentioned_attributes") is not None
        named = named and "file_name" in row
        if labelled:
            labels.append(row["label"])
            if "class_name" in row:
                class_names[row["label"]] = row["class_name"]
        own = row.get("attributes") or {}
        for name, value in own.items():
            if name not in every:
                every[name] = [""] * number
            every[name].append(intern(value))
        for name in every.keys() - own.keys():
            every[name].append("")
    return Rows(
        captions=Column(rows, "text"),
        labels=labels if labelled else None,
        class_names=class_names if labelled else {},
        attributes={name: every[name] for name in sorted(every)},
        mentioned_attributes=Column(rows, "mentioned_attributes") if mentioned and len(rows) else None,
        files=Column(rows, "file_name") if named else None,
    )


def several(problems: Sequence[str], most: int = 20) -> str:
    """The first `most` sentences, and how many more there are."""
    more = f"\n… and {len(problems) - most:,} more." if len(problems) > most else ""
    return "\n".join(problems[:most]) + more

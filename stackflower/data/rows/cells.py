"""Parsing of table cells: missing values, captions, labels and objects, in the forms that common programs write."""

from __future__ import annotations

import ast
import json
import math
import re
import warnings
from collections.abc import Mapping
from typing import Any

MISSING = frozenset({"", "nan", "null", "none", "n/a", "<na>", "\\n"})  # missing values of pandas, SQL and R
LONGEST_MISSING = max(map(len, MISSING))
TEXT_KEYS = ("raw", "text", "caption", "sentence")  # keys of the text in a caption that is an object
LONGEST_LITERAL = 1_000_000  # characters of a list or an object in a cell
MAX_SHOWN = 200  # characters of a value in a message
STRING = r"""(?:'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")"""
ITEM = rf"(?:{STRING}|nan|None)"
ITEMS = re.compile(ITEM, re.DOTALL)
# Whitespace matches in one way only, so matching takes linear time.
LIST_OF_STRINGS = re.compile(rf"\[\s*{ITEM}(?:\s*,\s*{ITEM}|\s+{ITEM})*\s*(?:,\s*)?\]", re.DOTALL)
ARRAY = re.compile(r"array\((\[.*\])(?:,\s*dtype=[^()]*)?\)", re.DOTALL)  # as NumPy represents an array
WHOLE_NUMBER = re.compile(r"[+-]?\d{1,19}(?:\.0+)?")


def is_missing(cell: object) -> bool:
    """Return whether a cell is missing: None, NaN, whitespace, or a word for a missing value."""
    if isinstance(cell, str):
        text = cell.strip()
        return len(text) <= LONGEST_MISSING and text.lower() in MISSING
    return cell is None or (isinstance(cell, float) and math.isnan(cell))


def parse_whole_number(cell: object) -> int | None:
    """Parse a cell as a whole number, such as 3, 3.0 or "3"; None if it is not one."""
    if isinstance(cell, bool):
        return None
    if isinstance(cell, int):
        return cell
    if isinstance(cell, float):
        return int(cell) if cell.is_integer() and abs(cell) < 2**53 else None
    if isinstance(cell, str) and WHOLE_NUMBER.fullmatch(cell.strip()):
        return int(cell.strip().partition(".")[0])
    return None


def parse_literal(cell: object) -> Any:
    """Parse a list or an object in a string, as JSON or as printed by Python or NumPy; return other cells unchanged."""
    if not isinstance(cell, str) or len(cell) > LONGEST_LITERAL:
        return cell
    text = ARRAY.sub(r"\1", cell.strip())
    if text[:1] + text[-1:] not in ("[]", "{}", "()"):
        return cell
    if text[0] != "[" and LIST_OF_STRINGS.fullmatch(f"[{text[1:-1]}]"):  # a tuple or a set
        text = f"[{text[1:-1]}]"
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    try:
        with warnings.catch_warnings(action="ignore"):  # about invalid escape sequences
            if LIST_OF_STRINGS.fullmatch(text):  # item by item: Python concatenates adjacent strings
                return [None if item in ("nan", "None") else ast.literal_eval(item) for item in ITEMS.findall(text)]
            value = ast.literal_eval(text)
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return cell
    return value if isinstance(value, (list, dict)) else cell


def parse_texts(cell: object) -> list[str] | None:
    """Parse the captions in a cell.

    A cell contains a caption, a list of captions, or objects with a caption. A number is a caption of one word.

    Returns:
        The captions, some of which may be empty; an empty list for a missing cell; None for a cell of another type.
    """
    if type(cell) is list and set(map(type, cell)) == {str} and min(map(len, cell)) > LONGEST_MISSING:
        return cell  # the usual case, which needs no further checks
    value = parse_literal(cell)
    if is_missing(value):
        return []
    if isinstance(value, Mapping):
        value = [value]
    if not isinstance(value, (list, tuple)):
        value = [value]
    value = [item for item in value if isinstance(item, str) or not is_missing(item)]
    texts = [_parse_text(item) for item in value]
    return None if None in texts else [text for text in texts if text is not None]


def _parse_text(item: object) -> str | None:
    if not isinstance(item, str) and isinstance(item, Mapping):
        item = next((item[key] for key in TEXT_KEYS if key in item), b"")
    if is_missing(item):
        return ""
    if isinstance(item, str):
        return item
    if isinstance(item, (int, float)) and not isinstance(item, bool):
        return str(item)
    return None


def show(value: object) -> str:
    """Format a value for a message: at most 200 characters, and never bytes."""
    if isinstance(value, (bytes, bytearray, memoryview)):
        return f"{len(value):,} bytes"
    if isinstance(value, Mapping):
        return "{" + _cut(", ".join(f"{key!r}: {show(item)}" for key, item in value.items())) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + _cut(", ".join(map(show, value[:20]))) + "]"
    if isinstance(value, int) and abs(value) >= 10**20:
        return "a number of more than 20 digits"
    return _cut(repr(value))


def _cut(text: str) -> str:
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}…"

"""Lines of text files."""

from __future__ import annotations

import io
from collections.abc import Iterator


def lines_with_numbers(text: str) -> Iterator[tuple[int, str]]:
    """The lines of a text that are not empty, with their numbers from 1.

    Only line feeds and carriage returns end a line.
    """
    for number, line in enumerate(io.StringIO(text, newline=None), 1):
        if line.strip():
            yield number, line.strip()


def lines_of(text: str) -> list[str]:
    """Return the lines that are not empty of a text, such as a file of captions."""
    return [line for _, line in lines_with_numbers(text)]

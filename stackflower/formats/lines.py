"""Lines of text files."""

from __future__ import annotations

import io
from collections.abc import Iterator


def number_lines(text: str) -> Iterator[tuple[int, str]]:
    """Yield the number, from 1, and the text of each line that is not empty.

    Only line feeds and carriage returns end a line.
    """
    for number, line in enumerate(io.StringIO(text, newline=None), 1):
        if line.strip():
            yield number, line.strip()


def split_lines(text: str) -> list[str]:
    """Return the lines that are not empty of a text, such as a file of captions."""
    return [line for _, line in number_lines(text)]

"""Example captions of a run, from its prepared data."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

from stackflower.data.prepared import DAMAGE, DIGEST, ROWS
from stackflower.errors import DataError
from stackflower.runs.record import RunRecord
from stackflower.utils.cache import make_cache_folder

COUNT = 6  # number of examples
MAX_LENGTH = 90  # characters of an example
READ_BYTES = 256 << 10  # bytes read of a data set's rows
FLOWERS = [
    "a red flower with pointed petals and a yellow center",
    "a white flower with round petals",
    "a large purple flower on a green stem",
    "a small orange flower with many narrow petals",
    "a pink flower with a dark center",
    "yellow petals around a brown center",
]


def find_example_captions(record: RunRecord) -> list[str]:
    """Return captions of the run's prepared training images, or captions of flowers if they are not in the cache.

    Args:
        record: record of the run.
    """
    with suppress(DataError, *DAMAGE):
        for folder in make_cache_folder("prepared").iterdir():
            with suppress(*DAMAGE):
                if json.loads((folder / DIGEST).read_text(encoding="utf-8")) == record.data_key:
                    return _choose_captions(folder) or FLOWERS
    return FLOWERS


def _choose_captions(folder: Path) -> list[str]:
    """Choose the captions of evenly spaced images at the beginning of the rows, preferring short ones."""
    with (folder / ROWS).open("rb") as file:
        lines = file.read(READ_BYTES).splitlines()[:-1]
    texts = [json.loads(line).get("text") for line in lines]
    firsts = [min(text, key=len) if isinstance(text, list) else text for text in texts if text]
    captions = [caption for caption in dict.fromkeys(firsts) if isinstance(caption, str) and len(caption) <= MAX_LENGTH]
    step = max(1, len(captions) // COUNT)
    return captions[::step][:COUNT]

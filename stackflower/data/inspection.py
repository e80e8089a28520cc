"""Inspection of a data set: problems and contents."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from stackflower.data.opening import open_source
from stackflower.data.source import Source
from stackflower.errors import ConfigError

CaptionCheck = Callable[[Source], tuple[list[str], list[str]]]
"""Function that returns problems of a data set's captions, and remarks about them."""


def check_data(
    value: str, options: Mapping[str, Any], layout: str | None, check_captions: CaptionCheck | None = None
) -> dict[str, list[str]]:
    """Read every image and row of a data set, and report what is wrong.

    Args:
        value: name, path or URL of the data set.
        options: options of its source.
        layout: name of the source. Default: detect it.
        check_captions: further check, of the captions.

    Returns:
        Sentences under "problems", and other remarks under "notes".

    Raises:
        ConfigError: the data set is generated, not read.
    """
    source = open_source(value, options, layout)
    report = source.check()
    if report is None:
        raise ConfigError(f"{value} can't be checked: it is generated, not read from a folder or shards.")
    problems, notes = report
    if source.layout is not None and (notes or not problems):
        notes.insert(0, f"{value} is {source.layout}.")
    if not source.is_captioned:
        problems = [*problems, source.explain_no_captions()]
    elif check_captions is not None:
        more_problems, more_notes = check_captions(source)
        problems, notes = [*problems, *more_problems], [*notes, *more_notes]
    return {"problems": problems, "notes": notes}


def count_data(value: str, options: Mapping[str, Any], layout: str | None) -> dict[str, Any]:
    """Count the images, captions, classes and distinct words of each split.

    Args:
        value: name, path or URL of the data set.
        options: options of its source.
        layout: name of the source. Default: detect it.

    Returns:
        For each split, its counts and the names of its attributes.
    """
    source, counts = open_source(value, options, layout), dict[str, Any]()
    for split in source.splits():
        rows = source.rows(split)
        words = {word for captions in rows.captions for caption in captions for word in caption.lower().split()}
        counts[split] = {
            "images": len(rows),
            "captions": sum(map(len, rows.captions)),
            "classes": len(set(rows.labels or ())),
            "attributes": sorted(rows.attributes),
            "distinct_words": len(words),
        }
    return counts

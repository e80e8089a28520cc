"""Inspection of a data set: problems and contents."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stackflower.data.opening import open_source
from stackflower.errors import ConfigError


def check_data(value: str, options: Mapping[str, Any], layout: str | None) -> dict[str, list[str]]:
    """Read every image and row of a data set, and report what is wrong.

    Args:
        value: name, path or URL of the data set.
        options: options of its source.
        layout: name of the source. Default: detect it.

    Returns:
        Sentences under "problems", and other remarks under "notes".

    Raises:
        ConfigError: the data set is generated, not read.
    """
    source = open_source(value, options, layout)
    report = source.check()
    if source.layout is not None and report is not None and (report[1] or not report[0]):
        report[1].insert(0, f"{value} is {source.layout}.")
    if report is None:
        raise ConfigError(f"{value} can't be checked: it is generated, not read from a folder or shards.")
    if not source.is_captioned:
        report[0].append(source.explain_no_captions())
    return {"problems": report[0], "notes": report[1]}


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

"""Inspect a data set: what is wrong with it, and what it contains."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stackflower.data.opening import open_source
from stackflower.errors import ConfigError


def check_data(value: str, options: Mapping[str, Any], layout: str | None) -> dict[str, list[str]]:
    """Return everything that is wrong with a data set, as `problems`, and what else to know about it, as `notes`."""
    source = open_source(value, options, layout)
    found = source.check()
    if source.layout is not None and found is not None and (found[1] or not found[0]):
        found[1].insert(0, f"{value} is {source.layout}.")
    if found is None:
        raise ConfigError(f"The data {value} have no check: they are not read from a folder or shards.")
    return {"problems": found[0], "notes": found[1]}


def count_data(value: str, options: Mapping[str, Any], layout: str | None) -> dict[str, Any]:
    """Count the images, captions, classes and words of each split."""
    source, found = open_source(value, options, layout), dict[str, Any]()
    for split in source.splits():
        rows = source.rows(split)
        words = {word for captions in rows.captions for caption in captions for word in caption.lower().split()}
        found[split] = {
            "images": len(rows),
            "captions": sum(map(len, rows.captions)),
            "classes": len(set(rows.labels or ())),
            "attributes": sorted(rows.attributes),
            "distinct_words": len(words),
        }
    return found

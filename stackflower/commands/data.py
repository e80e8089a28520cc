"""The data commands: write built-in data as a folder, prepare, count."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from stackflower.config.schema import Part
from stackflower.data.images import save_png
from stackflower.data.prepared import prepare
from stackflower.data.source import Source
from stackflower.data.synthetic.source import SyntheticFlowers
from stackflower.errors import ConfigError, DataError
from stackflower.utils.progress import bar


def _source(part: dict[str, Any]) -> Source:
    source: Source = Part.from_plain(part).create("data")
    return source


def make(name: str, out: str, *, count: int, validation: int, resolution: int, seed: int) -> str:
    """Write the built-in data as an ImageFolder with split folders; what was written, in words."""
    if name != "synthetic-flowers":
        raise ConfigError(f"There is no built-in data {name!r}. Allowed: synthetic-flowers.")
    folder = Path(out).expanduser()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DataError(f"{folder} is there and not empty; choose a new folder with --out.")
    source = SyntheticFlowers(count=count, validation=validation, seed=seed)
    try:
        for split in source.splits():
            rows = source.rows(split)
            images = np.empty((len(rows), resolution, resolution, 3), dtype=np.uint8)
            with bar(f"drawing {split}", len(rows)) as progress:
                source.fill(split, images, progress)
            names = [f"{number:06d}.png" for number in range(len(rows))]
            with ThreadPoolExecutor() as pool:
                list(pool.map(save_png, images, [folder / split / name for name in names]))
            lines = [json.dumps({"file_name": name, **source.row(rows, number)}) for number, name in enumerate(names)]
            (folder / split / "metadata.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    except OSError as error:
        raise DataError(f"{folder} can't be written: {error}. Choose another --out.") from error
    return f"{folder}: {count:,} pictures to train on and {validation:,} held out, {resolution} px"


def prepare_all(part: dict[str, Any], size: int, say: Callable[[str], None]) -> str:
    """Decode every split into the cache."""
    source, told = _source(part), []
    for split in source.splits():
        for warning in source.warnings(split):
            say(f"Warning: {warning}")
        told.append(f"{split}: {len(prepare(source, split, size, bar).rows):,} pictures at {size} px")
    return "\n".join(told)


def info(part: dict[str, Any]) -> dict[str, Any]:
    """Counts of each split."""
    source, found = _source(part), {}
    for split in source.splits():
        rows = source.rows(split)
        words = {word for captions in rows.captions for caption in captions for word in caption.lower().split()}
        found[split] = {
            "pictures": len(rows),
            "captions": sum(map(len, rows.captions)),
            "classes": len(set(rows.labels or ())),
            "attributes": sorted(rows.attributes),
            "distinct_words": len(words),
        }
    return found

"""The data commands: write built-in data as a folder, check, prepare, count."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from stackflower import registry
from stackflower.config.schema import Part
from stackflower.data.archives import is_archive, open_files
from stackflower.data.images import save_png
from stackflower.data.listed import ListedSource
from stackflower.data.prepared import prepare
from stackflower.data.source import Source
from stackflower.data.synthetic.source import SyntheticFlowers
from stackflower.errors import ComponentError, ConfigError, DataError
from stackflower.utils.atomic import write_text
from stackflower.utils.progress import bar


def source_part(value: str | None) -> dict[str, Any] | None:
    """`--data`: a registered source by name, or a folder, an archive or shards by path."""
    if value is None:
        return None
    path = Path(value).expanduser()
    listed = _listed()
    if value in set(registry.names("data")) - set(listed) and not path.is_dir():
        return {"name": value}
    return {"name": _layout(path, listed), "path": str(path.absolute())}


def _listed() -> dict[str, type[ListedSource]]:
    """The sources of images that are files; one of another distribution that can't be loaded is left out."""
    found: dict[str, type[ListedSource]] = {}
    for name in registry.names("data"):
        with suppress(ComponentError):
            source = registry.get("data", name)
            found |= {name: source} if issubclass(source, ListedSource) else {}
    return found


def _layout(path: Path, listed: Mapping[str, type[ListedSource]]) -> str:
    """The source that reads a path: the first that recognises its files; an image folder, where none does, says what is wrong."""
    if not path.exists():
        return "shards" if path.suffix == ".tar" else "folder"
    if path.is_file() and not is_archive(path):
        return "folder"
    files = open_files(path)
    found = next(
        (name for name in sorted(listed, key=lambda n: -listed[n].precedence) if listed[name].recognises(files)), None
    )
    if found is None and path.suffix == ".tar":
        return "shards"
    return found or "folder"


def open_source(value: str, options: Mapping[str, Any] | None = None) -> Source:
    """The source that `--data` names, with options of ``--set``."""
    source: Source = Part.from_dict({**(source_part(value) or {}), **(options or {})}).create("data")
    return source


def make(name: str, out: str, *, count: int, validation: int, test: int, resolution: int, seed: int) -> str:
    """Write the built-in data as an ImageFolder with split folders; what was written, in words."""
    if name != "synthetic-flowers":
        raise ConfigError(f"There is no built-in data {name!r}. Allowed: synthetic-flowers.")
    folder = Path(out).expanduser()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DataError(f"{folder} is there and not empty; choose a new folder with --out.")
    source = SyntheticFlowers(count=count, validation=validation, test=test, seed=seed)
    try:
        for split in source.splits():
            rows = source.rows(split)
            images = np.empty((len(rows), resolution, resolution, 3), dtype=np.uint8)
            with bar(f"rendering {split}", len(rows)) as progress:
                source.fill(split, images, progress)
            names = [f"{number:06d}.png" for number in range(len(rows))]
            with ThreadPoolExecutor() as pool:
                list(pool.map(save_png, images, [folder / split / name for name in names]))
            lines = [json.dumps({"file_name": name, **source.row(rows, number)}) for number, name in enumerate(names)]
            write_text(folder / split / "metadata.jsonl", "\n".join(lines) + "\n")
    except OSError as error:
        raise DataError(f"{folder} can't be written: {error}. Choose another --out.") from error
    counts = ", ".join(f"{number:,} in {split}" for split, number in source.counts.items())
    return f"{folder}: {counts} images of {resolution} px"


def check(value: str) -> dict[str, list[str]]:
    """Everything wrong with a folder or with shards: problems, and what is worth knowing."""
    source = open_source(value)
    found = source.check()
    if isinstance(source, ListedSource) and found is not None:
        found[1].insert(0, f"{value} is {source.layout}.")
    if found is None:
        raise ConfigError(f"The data {value} have no check: they are not read from a folder or shards.")
    return {"problems": found[0], "notes": found[1]}


def prepare_all(value: str, size: int, say: Callable[[str], None]) -> str:
    """Decode every split into the cache."""
    source, lines = open_source(value), []
    for split in source.splits():
        for warning in source.warnings(split):
            say(f"Warning: {warning}")
        lines.append(f"{split}: {len(prepare(source, split, size, bar).rows):,} images at {size} px")
    return "\n".join(lines)


def info(value: str) -> dict[str, Any]:
    """Counts of each split."""
    source, found = open_source(value), {}
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

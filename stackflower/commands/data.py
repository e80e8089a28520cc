"""The data commands: write built-in data as a folder, check, prepare, count."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from stackflower import registry
from stackflower.config.merge import parse_value
from stackflower.config.schema import Part
from stackflower.data.archives import is_archive, open_files
from stackflower.data.files import LINK_OUT, Files
from stackflower.data.images import save_png
from stackflower.data.remote import is_remote
from stackflower.data.source import Source
from stackflower.data.sources.table import FLICKR, SUFFIXES
from stackflower.data.synthetic.source import SyntheticFlowers
from stackflower.errors import ComponentError, ConfigError, DataError
from stackflower.options import suggest
from stackflower.utils.atomic import write_text
from stackflower.utils.progress import bar


def source_part(value: str | None, layout: str | None = None) -> dict[str, Any] | None:
    """`--data`: a registered source by name, a folder, an archive or shards by path, or a Hugging Face data set by hf://owner/name.

    Args:
        layout: name of the source that reads the path; None: the one that recognises it.
    """
    if value is None:
        return None
    if value.startswith("hf://"):
        return {"name": "huggingface", "path": value}
    if is_remote(value) and not value.endswith(".tar"):
        raise DataError(
            f"{value}: at a URL, only shards can be read, as in s3://bucket/train-{{000..006}}.tar; fetch anything else first."
        )
    path, layouts = Path(value).expanduser(), _found_at_a_path()
    try:
        there = is_remote(value) or path.exists()
    except OSError as error:  # such as a name that is too long
        raise DataError(f"{value[:200]} can't be opened: {error.strerror}.") from error
    where = value if is_remote(value) else str(path.absolute())
    if layout is not None:
        if layout not in layouts:
            raise ConfigError(f"There is no format {layout!r}.{suggest(layout, layouts)}")
        return {"name": layout, "path": where}
    if path.name.endswith(".tar") and (is_remote(value) or (not there and set(value) & set("{*?["))):
        return {"name": "stream", "path": where}
    if value in set(registry.names("data")) - set(layouts) and not path.is_dir():
        return {"name": value}
    return {"name": _layout(path, layouts), "path": where}


def _found_at_a_path() -> dict[str, type[Source]]:
    """The sources of data at a path; one of another distribution that can't be loaded is left out."""
    found: dict[str, type[Source]] = {}
    for name in registry.names("data"):
        with suppress(ComponentError):
            source: Any = registry.get("data", name)
            found |= {name: source} if source.layout is not None else {}
    return found


def _layout(path: Path, layouts: Mapping[str, type[Source]]) -> str:
    """The source that reads a path: the first that recognises its files; an image folder, where none does, says what is wrong."""
    if not path.exists():
        return "shards" if path.suffix == ".tar" else "folder"
    if (path.suffix.lower() in SUFFIXES or path.name == FLICKR) and path.is_file():
        return "table"
    if path.is_file() and not is_archive(path):
        return "folder"
    files = open_files(path)
    found = _recognised(files, layouts)
    if found is None and LINK_OUT in files.refused.values():  # the source says how links are followed
        found = _recognised(open_files(path, follow_links=True), layouts)
    if found is None and path.suffix == ".tar":
        return "shards"
    return found or "folder"


def _recognised(files: Files, layouts: Mapping[str, type[Source]]) -> str | None:
    """The source of the highest precedence that recognises files, or None."""
    ordered = sorted(layouts, key=lambda name: -layouts[name].precedence)
    return next((name for name in ordered if layouts[name].recognises(files)), None)


def open_source(value: str, options: Mapping[str, Any] | None = None, layout: str | None = None) -> Source:
    """The source that `--data` names, with options of ``--set``; `layout` names it where it is not to be recognised."""
    source: Source = Part.from_dict({**(source_part(value, layout) or {}), **(options or {})}).create("data")
    return source


def data_options(settings: Sequence[str]) -> dict[str, Any]:
    """Options of a data set from ``--set data.NAME=VALUE``. ConfigError for any other setting."""
    found = {}
    for text in settings:
        key, equals, value = text.partition("=")
        section, dot, name = key.strip().partition(".")
        if not equals or section != "data" or not dot or "." in name:
            raise ConfigError(f"--set {text}: here it sets options of the data, as in --set data.seed=1.")
        found[name] = parse_value(value.strip())
    return found


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
            lines = [json.dumps({"file_name": name, **rows.row(number)}) for number, name in enumerate(names)]
            write_text(folder / split / "metadata.jsonl", "\n".join(lines) + "\n")
    except OSError as error:
        raise DataError(f"{folder} can't be written: {error}. Choose another --out.") from error
    counts = ", ".join(f"{number:,} in {split}" for split, number in source.counts.items())
    return f"{folder}: {counts} images of {resolution} px"


def check(value: str, options: Mapping[str, Any], layout: str | None) -> dict[str, list[str]]:
    """Everything wrong with a data set: problems, and what is worth knowing."""
    source = open_source(value, options, layout)
    found = source.check()
    if source.layout is not None and found is not None and (found[1] or not found[0]):
        found[1].insert(0, f"{value} is {source.layout}.")
    if found is None:
        raise ConfigError(f"The data {value} have no check: they are not read from a folder or shards.")
    return {"problems": found[0], "notes": found[1]}


def info(value: str, options: Mapping[str, Any], layout: str | None) -> dict[str, Any]:
    """Counts of each split."""
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

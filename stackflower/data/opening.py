"""Open a data set by name, path or URL, and detect its layout."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from stackflower import registry
from stackflower.data.archives import open_files
from stackflower.data.files import LINK_REASON, Files
from stackflower.data.image_formats import OTHER_IMAGES
from stackflower.data.listed import ListedSource
from stackflower.data.remote import is_remote
from stackflower.data.rows.checks import list_examples
from stackflower.data.rows.containers import is_container
from stackflower.data.source import Source
from stackflower.data.sources.shards import TEXT_SUFFIXES
from stackflower.errors import ComponentError, ConfigError, DataError, StackflowerError
from stackflower.options import suggest

logger = logging.getLogger(__name__)


def source_part(value: str | None, layout: str | None = None) -> dict[str, Any] | None:
    """Resolve `data` to the name and the path of a source.

    Args:
        value: name of a registered source, path of a folder, archive or shards, or ``hf://owner/name`` of a Hugging
            Face data set.
        layout: name of the source that reads the path. Default: the one that recognises it.

    Returns:
        The part as a dict, with "name" and, if the source reads a path, "path"; None for None.

    Raises:
        ConfigError: no source is called `layout`.
        DataError: the path can't be opened.
    """
    if value is None:
        return None
    if value.startswith("hf://"):
        return {"name": "huggingface", "path": value}
    if is_remote(value) and not value.endswith(".tar"):
        raise DataError(
            f"{value}: only shards can be read from a URL, as in s3://bucket/train-{{000..006}}.tar; download other "
            "data first."
        )
    path, layouts = Path(value).expanduser(), _list_layouts()
    try:
        exists = is_remote(value) or path.exists()
    except OSError as error:  # for example, the name is too long
        raise DataError(f"{value[:200]} can't be opened: {error.strerror}.") from error
    where = value if is_remote(value) else str(path.absolute())
    if layout is not None:
        if layout not in layouts:
            raise ConfigError(f"Unknown format {layout!r}.{suggest(layout, layouts)}")
        return {"name": layout, "path": where}
    if path.name.endswith(".tar") and (is_remote(value) or (not exists and set(value) & set("{*?["))):
        return {"name": "stream", "path": where}
    if value in set(registry.list_parts("data")) - set(layouts) and not path.is_dir():
        return {"name": value}
    return {"name": _detect_layout(path, layouts), "path": where}


def _list_layouts() -> dict[str, type[Source]]:
    """Return the sources that read a path, by name, except plugins that can't be loaded."""
    layouts: dict[str, type[Source]] = {}
    for name in registry.list_parts("data"):
        with suppress(ComponentError):
            source: Any = registry.get("data", name)
            layouts |= {name: source} if source.layout is not None else {}
    return layouts


def _detect_layout(path: Path, layouts: Mapping[str, type[Source]]) -> str:
    """Return the name of the source that reads the files at a path.

    If several sources recognise the files, choose the one that uses the most images.

    Raises:
        DataError: no source recognises them.
    """
    if not path.exists():
        return "shards" if path.suffix == ".tar" else "folder"
    if path.is_file() and is_container(path.name):
        return "table"
    files = open_files(path, enters=True)
    names = _list_recognised(files, layouts)
    if not names and LINK_REASON in files.refused.values():  # the error of the source explains how to follow links
        names = _list_recognised(open_files(path, follow_links=True, enters=True), layouts)
    contenders = [name for name in names if name != "images"]  # "images" recognises any images
    if not contenders and path.suffix == ".tar" and any(name.endswith(TEXT_SUFFIXES) for name in files.names):
        return "shards"
    contenders = contenders or names
    if not contenders:
        raise DataError(_explain_unrecognised(files))
    if len(contenders) == 1 or not issubclass(layouts[contenders[0]], ListedSource):
        return contenders[0]
    results = {name: _try_layout(name, path) for name in contenders}
    best = max(contenders, key=lambda name: results[name])
    counts = {name: images for name, (images, _) in results.items()}
    others = [name for name in contenders if name != best and counts[name]]
    if others:
        ways = ", or ".join(f"{name} with `data.name={name}` ({counts[name]:,} images)" for name in others)
        logger.info("%s is read as %s (%s images). Alternatives: %s.", path, best, f"{counts[best]:,}", ways)
    return best


def _list_recognised(files: Files, layouts: Mapping[str, type[Source]]) -> list[str]:
    """List the sources that recognise the files, in descending order of precedence."""
    ordered = sorted(layouts, key=lambda name: -layouts[name].precedence)
    return [name for name in ordered if layouts[name].recognises(files)]


def _try_layout(name: str, path: Path) -> tuple[int, int]:
    """Return the number of images that a source would use, and the negative number of its problems."""
    with suppress(StackflowerError):
        source: ListedSource = registry.create("data", name, path=str(path))
        listings = [source.get_listing(split) for split in source.splits()]
        return sum(len(listing.rows) for listing in listings), -sum(len(listing.problems) for listing in listings)
    return 0, 0


def _explain_unrecognised(files: Files) -> str:
    """Build the message that no layout recognises the files, with examples of the files."""
    refused = "".join(f" {name} {reason}." for name, reason in list(files.refused.items())[:3])
    others = [name for name in files.names if Path(name).suffix.lower() in OTHER_IMAGES]
    if others:
        refused += f" {others[0]} {files.explain_not_image(others[0])}."
    examples = f" Contents: {list_examples(files.names)}." if files.names else ""
    return (
        f"{files.path} contains no readable images, tables or shards.{examples}{refused} `data` takes images "
        "with a metadata.jsonl, a table or text files; WebDataset shards; or Parquet files."
    )


def open_source(value: str, options: Mapping[str, Any] | None = None, layout: str | None = None) -> Source:
    """Open a data set.

    Args:
        value: name, path or URL of the data set (see `source_part`).
        options: options of the source.
        layout: name of the source. Default: detect it.
    """
    part = {**(source_part(value, layout) or {}), **(options or {})}
    source: Source = registry.create("data", part.pop("name"), **part)
    return source

"""Opening of the data set that a name, path or URL refers to."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from stackflower import registry
from stackflower.data.archives import is_archive, open_files
from stackflower.data.files import LINK_REASON, Files
from stackflower.data.remote import is_remote
from stackflower.data.source import Source
from stackflower.data.sources.table import FLICKR, SUFFIXES
from stackflower.errors import ComponentError, ConfigError, DataError
from stackflower.options import suggest


def source_part(value: str | None, layout: str | None = None) -> dict[str, Any] | None:
    """Resolve `data` to the name and the path of a source.

    Args:
        value: name of a registered source, path of a folder, archive or shards, or ``hf://owner/name`` of a Hugging
            Face data set.
        layout: name of the source that reads the path. Default: the one that recognises it.

    Returns:
        The part as a dict, with "name" and, if it has one, "path"; None for None.

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
    """Return the name of the source that recognises the files at a path.

    If none does, it is the image folder, whose errors say what is missing.
    """
    if not path.exists():
        return "shards" if path.suffix == ".tar" else "folder"
    if (path.suffix.lower() in SUFFIXES or path.name == FLICKR) and path.is_file():
        return "table"
    if path.is_file() and not is_archive(path):
        return "folder"
    files = open_files(path)
    layout = _find_layout(files, layouts)
    if layout is None and LINK_REASON in files.refused.values():  # the source's error says how to follow links
        layout = _find_layout(open_files(path, follow_links=True), layouts)
    if layout is None and path.suffix == ".tar":
        return "shards"
    return layout or "folder"


def _find_layout(files: Files, layouts: Mapping[str, type[Source]]) -> str | None:
    """Return the source of the highest precedence that recognises the files, or None."""
    ordered = sorted(layouts, key=lambda name: -layouts[name].precedence)
    return next((name for name in ordered if layouts[name].recognises(files)), None)


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

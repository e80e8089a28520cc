"""Open the data set that a name, path or URL refers to."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from stackflower import registry
from stackflower.data.archives import is_archive, open_files
from stackflower.data.files import LINK_OUT, Files
from stackflower.data.remote import is_remote
from stackflower.data.source import Source
from stackflower.data.sources.table import FLICKR, SUFFIXES
from stackflower.errors import ComponentError, ConfigError, DataError
from stackflower.options import suggest


def source_part(value: str | None, layout: str | None = None) -> dict[str, Any] | None:
    """Resolve what `data` names: a registered source by name, a folder, an archive or shards by path, or a Hugging Face data set by hf://owner/name.

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
    if value in set(registry.list_parts("data")) - set(layouts) and not path.is_dir():
        return {"name": value}
    return {"name": _layout(path, layouts), "path": where}


def _found_at_a_path() -> dict[str, type[Source]]:
    """The sources of data at a path; one of another distribution that can't be loaded is left out."""
    found: dict[str, type[Source]] = {}
    for name in registry.list_parts("data"):
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
    """Open the source that `value` names, with its `options`; `layout` names it instead of detecting it."""
    part = {**(source_part(value, layout) or {}), **(options or {})}
    source: Source = registry.create("data", part.pop("name"), **part)
    return source

"""Add the page that draws in the browser with the shipped model `flowers` to the site."""

from __future__ import annotations

import tempfile
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

FOLDER = "draw"
MODEL = "flowers"
_exported: list[tempfile.TemporaryDirectory[str]] = []  # kept until the site is built


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Export the page, and add its files to the site."""
    from stackflower.models.export import export_network
    from stackflower.pipeline import Pipeline

    if not _exported:  # `mkdocs serve` builds again after every change
        _exported.append(tempfile.TemporaryDirectory())
        pipeline = Pipeline.from_pretrained(MODEL, "cpu")
        assert pipeline.record is not None
        export_network(
            *(pipeline.stage, pipeline.encoder, Path(_exported[0].name) / MODEL),
            format="web",
            half=True,
            captions=pipeline.record.captions,
        )
    root = Path(_exported[0].name) / MODEL
    for path in sorted(root.rglob("*")):
        if path.is_file():
            name = f"{FOLDER}/{path.relative_to(root).as_posix()}"
            files.append(File.generated(config, name, abs_src_path=str(path)))
    return files

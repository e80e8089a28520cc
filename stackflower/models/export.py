"""Export the model of a run: ONNX files and web pages."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from stackflower.build import build_source, load_run
from stackflower.errors import ConfigError, RunError, StackflowerError
from stackflower.models.onnx import export_onnx, read_metadata
from stackflower.models.web import check_replaceable, describe_encoder, export_web, find_runtime
from stackflower.runs.folder import Run
from stackflower.stages.base import Stage
from stackflower.text.base import TextEncoder
from stackflower.text.checks import clean_captions

logger = logging.getLogger(__name__)

EXAMPLE_COUNT = 6
LONGEST_EXAMPLE = 80  # characters; longer captions do not fit the page


def export_run(
    run: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    layout: str | None = None,
    half: bool = False,
    checkpoint: str | None = None,
    runtime: str | os.PathLike[str] | None = None,
    captions: Sequence[str] = (),
) -> dict[str, Any]:
    """Export the model of a run for use without Stackflower.

    Args:
        run: run, or its folder.
        out: file or folder to write.
        layout: "onnx" or "web". Default: "onnx" if `out` ends in ``.onnx``.
        half: store weights as float16.
        checkpoint: "best", or the number of images after which a checkpoint was written. Default: the last model.
        runtime: folder `dist` of npm's onnxruntime-web, for a web page. Default: the page loads it from jsDelivr.
        captions: example captions of a web page. Default: captions of the run's data.

    Returns:
        ``out``, ``format`` and ``bytes``, the size of what was written.

    Raises:
        ConfigError: an argument is wrong, or `out` can't be written.
        RunError: part of the run is missing or damaged.
        MissingDependency: onnx or onnxscript is not installed.
    """
    path = Path(out).expanduser()
    if layout is None:
        if path.suffix.lower() != ".onnx":
            raise ConfigError(f"The format of {path} is unclear: name a file that ends in .onnx, or use `format=web`.")
        layout = "onnx"
    if layout == "web":
        _export_page(
            Run(run), path, half, checkpoint, None if runtime is None else Path(runtime).expanduser(), captions
        )
    elif runtime is not None or captions:
        raise ConfigError(f"`{'captions' if captions else 'runtime'}` is for a web page; use it with `format=web`.")
    else:
        _export_onnx(Run(run), path, half, checkpoint)
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return {"out": str(path), "format": layout, "bytes": sum(file.stat().st_size for file in files)}


def _export_onnx(run: Run, path: Path, half: bool, checkpoint: str | None) -> None:
    if path.exists():
        try:
            read_metadata(path)
        except RunError as error:
            raise ConfigError(f"{path} exists and is not an export of Stackflower. Choose another `out`.") from error
    stage, encoder = _load(run, checkpoint)
    export_onnx(stage, encoder.dim, path, half=half)


def _load(run: Run, checkpoint: str | None) -> tuple[Stage, TextEncoder]:
    with torch.random.fork_rng(devices=[]):  # building networks draws weights, which are then replaced
        stage, encoder, _ = load_run(run, False, checkpoint)
    return stage, encoder


def _export_page(
    run: Run, folder: Path, half: bool, checkpoint: str | None, runtime: Path | None, captions: Sequence[str]
) -> None:
    if runtime is not None:
        find_runtime(runtime)
    check_replaceable(folder)
    stage, encoder = _load(run, checkpoint)
    describe_encoder(encoder)
    examples = clean_captions(captions) if captions else _choose_examples(run)
    title = run.path.resolve().name
    export_web(stage, encoder, folder, title=title, examples=examples, half=half, runtime=runtime)


def _choose_examples(run: Run) -> list[str]:
    """Choose short captions of evenly spaced images of the run's data; none if the data can't be read."""
    try:
        source = build_source(run.read_config())
        rows = source.rows(source.get_reported_split())
    except (StackflowerError, OSError) as error:
        logger.info("The page has no example captions, because the data can't be read: %s Use `captions`.", error)
        return []
    numbers = [number * len(rows) // EXAMPLE_COUNT for number in range(EXAMPLE_COUNT)]
    shortest = [min(rows.captions[number], key=len) for number in numbers if rows.captions[number]]
    examples = list(dict.fromkeys(caption for caption in shortest if len(caption) <= LONGEST_EXAMPLE))
    logger.info("The example captions of the page come from the run's data; replace them with `captions`.")
    return examples

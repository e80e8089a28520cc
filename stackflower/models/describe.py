"""Descriptions of runs as models, without paths and names of computers."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

from stackflower.config.schema import PreviousStage, RunConfig
from stackflower.models.record import FORMAT, ModelRecord, Training
from stackflower.runs.folder import Run

PRIVATE_FIELDS = ("data_key", "weights_sha256", "held_out")  # of a protocol, not shown in a model
DESCRIPTIONS = ("scored", "protocol", "omitted")  # of scores, not scores themselves


def describe_run(run: Run, captions: Sequence[str] | None = None, checkpoint: str | None = None) -> ModelRecord:
    """Describe the model of a run, without its files.

    Args:
        run: the run.
        captions: example captions. Default: those of the run's sample grids.
        checkpoint: checkpoint that the weights are of (see `Pipeline.from_run`), whose scores are listed.

    Raises:
        RunError: ``config.json`` is missing or damaged.
    """
    record = run.read_record()
    config = record.config
    images = run.images
    if checkpoint is not None:
        best = run.read_best()
        images = int(checkpoint) if checkpoint.isdecimal() else best["images"] if best else images
    training = Training(config.recipe, describe_data(config), images, record.precision, config.seed, record.features)
    return ModelRecord(
        FORMAT,
        record.stackflower,
        record.text_dim,
        record.resolution,
        record.encoder,
        config.text.to_dict(),
        {**describe_networks(config), "load_ratio": record.load_size / record.resolution},
        captions=list(run.read_captions() if captions is None else captions),
        training={**dataclasses.asdict(training), "recipe": PurePath(config.recipe).name},
        scores=_read_scores(run, images),
        word_dim=record.word_dim,
    )


def _read_scores(run: Run, images: int) -> list[dict[str, Any]]:
    """Read what `stackflower eval` wrote about a checkpoint, without the paths in it; unreadable files are skipped."""
    scores = []
    for path in sorted(run.scores.glob("*.json"), key=lambda path: path.stat().st_mtime):
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            if values["scored"]["images_seen"] == images:
                public = {name: value for name, value in values["protocol"].items() if name not in PRIVATE_FIELDS}
                protocol = {name: _shorten(value) for name, value in public.items()}
                scores.append({"protocol": protocol, **_split_scores(values)})
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            continue
    return scores


def _shorten(value: Any) -> Any:
    """Return the last part of a value that is a path, and any other value as it is."""
    is_path = isinstance(value, str) and re.match(r"[/~\\]|[A-Za-z]:[/\\]", value) is not None
    return re.split(r"[/\\]", value.rstrip("/\\"))[-1] if is_path else value


def _split_scores(values: Mapping[str, Any]) -> dict[str, Any]:
    """Split scores into values and their intervals, both by name; nested scores stay nested."""
    split: dict[str, dict[str, Any]] = {"values": {}, "intervals": {}}
    for name, value in values.items():
        interval = values.get(f"{name}_interval")
        if isinstance(value, float):
            split["values"][name] = value
            if isinstance(interval, list):
                split["intervals"][name] = interval
        elif isinstance(value, Mapping) and name not in DESCRIPTIONS:
            nested = _split_scores(value)
            split = {part: {**split[part], name: nested[part]} for part in split}
    return split


def describe_networks(config: RunConfig | PreviousStage) -> dict[str, Any]:
    """Describe a stage and its previous stages, without the names of runs."""
    return {
        "stage": config.stage,
        "conditioning": config.conditioning.to_dict(),
        "generator": config.generator.to_dict(),
        "load_ratio": config.load_ratio if isinstance(config, PreviousStage) else 1.0,
        "below": None if config.below is None else describe_networks(config.below),
    }


def describe_data(config: RunConfig) -> str:
    """Return the name of a run's data set: the last part of its path, or the name of the source."""
    location = config.data.options.get("path")
    if not isinstance(location, str):
        return config.data.name
    return location.removeprefix("hf://") if location.startswith("hf://") else Path(location.rstrip("/")).name

"""What a stage over another takes from the run below: its networks' description, its text encoder, its captions' data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from stackflower import build, registry
from stackflower.config.schema import Lower, RunConfig
from stackflower.errors import ConfigError, RunError
from stackflower.runs.folder import RunFolder
from stackflower.text.learned import LearnedEncoder


def flags_over(path: str, flags: Mapping[str, Any]) -> dict[str, Any]:
    """The flags of a stage over the run at `path`: what it was trained with stands in for what is not given.

    Raises RunError where there is no trained run, ConfigError where another text encoder is asked for.
    """
    run = RunFolder(path)
    config = run.config()
    if not run.weights_file.exists():
        raise RunError(f"{run} has no model yet ({run.weights_file.name} is missing); train it first: --resume {run}.")
    text = config.text.plain()
    if issubclass(registry.get("text", config.text.name), LearnedEncoder):
        text["weights"] = str(run.text_folder.resolve())  # it is not trained again: the stage below reads it too
    given = flags.get("text")
    if given is not None and any(
        value not in (config.text.plain().get(key), text.get(key)) for key, value in given.items()
    ):
        raise ConfigError(
            _unlike(str(run), config.text.name, given.get("model") or given.get("weights") or given["name"])
        )
    values = run.values()
    with torch.device("meta"):
        stage = build.build_stage(config, int(values["text_dim"]))
    size = values.get("load_size") or build.load_size(config, stage, build.build_source(config))
    ratio = size / max(stage.resolutions)
    below = Lower(str(run.path.resolve()), config.stage, config.conditioning, config.generator, ratio, config.below)
    return {"data": config.data.plain(), **flags, "text": text, "below": below.plain()}


def _unlike(run: str, theirs: str, given: str) -> str:
    return (
        f"--text {given}: {run} reads captions with {theirs}, and the stage over it must read them alike; leave out --text, or "
        "train the stage below with the other encoder."
    )


def check_text(config: RunConfig, flags: Mapping[str, Any]) -> None:
    """ConfigError where the captions of a stage over another would be read in another way than below it."""
    if config.below is None:
        return
    wanted, given = dict(flags["text"]), config.text.plain()
    changed = [key for key, value in given.items() if key in wanted and wanted[key] != value]
    if changed:
        told = ", ".join(f"text.{key} = {given[key]!r} ({wanted[key]!r} below)" for key in changed)
        raise ConfigError(
            f"{told}: the stage over {config.below.run} must read captions as that one does; leave it out."
        )

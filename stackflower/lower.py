"""What a stage over another takes from the run below: its networks' description, its text encoder, its captions' data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stackflower import registry
from stackflower.config import Lower
from stackflower.errors import ConfigError, RunError
from stackflower.runs import RunFolder
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
    if given is not None and any(text.get(key) != value for key, value in given.items()):
        raise ConfigError(
            f"--text {given.get('model', given['name'])}: {run} reads captions with {config.text.name}, and the stage over it "
            "must read them alike; leave out --text, or train the stage below with the other encoder."
        )
    below = Lower(str(run.path.resolve()), config.stage, config.conditioning, config.generator, config.below)
    return {"data": config.data.plain(), **flags, "text": text, "below": below.plain()}

"""What a later stage takes from the run of the previous one: the description of its networks, its text encoder, its
data.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from typing import Any

from stackflower import registry
from stackflower.config.schema import PreviousStage, RunConfig
from stackflower.errors import ConfigError, RunError
from stackflower.runs.folder import Run
from stackflower.text.learned import LearnedEncoder
from stackflower.utils.atomic import replacing, reporting_write_errors


def flags_over(path: str, flags: Mapping[str, Any]) -> dict[str, Any]:
    """The flags of a later stage over the run at `path`, whose data and text encoder are the default.

    Raises RunError where there is no trained run, ConfigError where another text encoder is asked for.
    """
    run = Run(path)
    record = run.record()
    config = record.config
    if not run.weights_file.exists():
        raise RunError(f"{run} has no model yet ({run.weights_file.name} is missing); train it first: `resume={run}`.")
    text = config.text.to_dict()
    if issubclass(registry.get("text", config.text.name), LearnedEncoder):
        text["weights"] = str(run.text_folder.resolve())  # it is not trained again: the previous stage uses it too
    given = flags.get("text")
    if given is not None and any(
        value not in (config.text.to_dict().get(key), text.get(key)) for key, value in given.items()
    ):
        raise ConfigError(
            _unlike(str(run), config.text.name, given.get("model") or given.get("weights") or given["name"])
        )
    ratio = record.load_size / record.resolution
    below = PreviousStage(
        str(run.path.resolve()), config.stage, config.conditioning, config.generator, ratio, config.below
    )
    return {"data": config.data.to_dict(), **flags, "text": text, "below": below.to_dict()}


def _unlike(run: str, theirs: str, given: str) -> str:
    return (
        f"`text={given}`: {run} encodes captions with {theirs}, and a later stage must do the same; leave out `text`, "
        "or train the previous stage with the other encoder."
    )


def keep_weights(config: RunConfig, run: Run) -> None:
    """Copy the models of the earlier stages into a later stage's run, which then needs nothing else; what is there
    already stays. RunError where one is missing or can't be written.
    """
    if config.below is None:
        return
    below = Run(config.below.run)
    theirs = [below.weights_file, *below.previous_weights(config.below.stage)]
    for source, target in zip(theirs, run.previous_weights(config.stage), strict=True):
        if target.exists():
            continue
        if not source.exists():
            raise RunError(f"{source} is missing: {run} refines the images of that model. Put it back, or train again.")
        with reporting_write_errors(target, RunError), replacing(target) as temporary:
            shutil.copyfile(source, temporary)


def check_text(config: RunConfig, flags: Mapping[str, Any]) -> None:
    """ConfigError where a later stage would encode captions differently from the previous one."""
    if config.below is None:
        return
    wanted, given = dict(flags["text"]), config.text.to_dict()
    changed = [key for key, value in given.items() if key in wanted and wanted[key] != value]
    if changed:
        listed = ", ".join(f"text.{key} = {given[key]!r} ({wanted[key]!r} in the previous stage)" for key in changed)
        raise ConfigError(
            f"{listed}: a stage over {config.below.run} must encode captions as that one does; leave it out."
        )

"""What a later stage inherits from the run of the previous stage: networks, text encoder and data."""

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


def inherit_parts(path: str, parts: Mapping[str, Any]) -> dict[str, Any]:
    """Complete the parts of a later stage with the data and the text encoder of the previous one.

    Args:
        path: run of the previous stage.
        parts: requested parts of the later stage.

    Raises:
        RunError: the run has no trained model.
        ConfigError: another text encoder was requested.
    """
    run = Run(path)
    record = run.read_record()
    config = record.config
    if not run.weights_file.exists():
        raise RunError(f"{run} has no model yet: {run.weights_file.name} is missing. Train it first: `resume={run}`.")
    text = config.text.to_dict()
    if issubclass(registry.get("text", config.text.name), LearnedEncoder):
        text["weights"] = str(run.text_folder.resolve())  # frozen: the previous stage depends on it
    requested = parts.get("text")
    if requested is not None and any(
        value not in (config.text.to_dict().get(key), text.get(key)) for key, value in requested.items()
    ):
        name = requested.get("model") or requested.get("weights") or requested["name"]
        raise ConfigError(
            f"`text={name}`: {run} encodes captions with {config.text.name}, and a later stage must use the same text "
            "encoder. Leave out `text`, or train the previous stage with the other encoder."
        )
    ratio = record.load_size / record.resolution
    below = PreviousStage(
        str(run.path.resolve()), config.stage, config.conditioning, config.generator, ratio, config.below
    )
    return {"data": config.data.to_dict(), **parts, "text": text, "below": below.to_dict()}


def keep_weights(config: RunConfig, run: Run) -> None:
    """Copy the weights of the earlier stages into a later stage's run, which then does not need their runs.

    Files that already exist are kept.

    Raises:
        RunError: a file is missing or can't be written.
    """
    if config.below is None:
        return
    below = Run(config.below.run)
    sources = [below.weights_file, *below.previous_weights_files(config.below.stage)]
    for source, target in zip(sources, run.previous_weights_files(config.stage), strict=True):
        if target.exists():
            continue
        if not source.exists():
            raise RunError(
                f"{source} is missing, and {run} refines the images of that model. Restore the file, or train it again."
            )
        with reporting_write_errors(target, RunError), replacing(target) as temporary:
            shutil.copyfile(source, temporary)


def check_text(config: RunConfig, parts: Mapping[str, Any]) -> None:
    """Check that a later stage encodes captions as the previous one does.

    Args:
        config: resolved configuration of the later stage.
        parts: its parts, as returned by `inherit_parts`.

    Raises:
        ConfigError: an option of the text encoder differs.
    """
    if config.below is None:
        return
    inherited, requested = dict(parts["text"]), config.text.to_dict()
    changed = [key for key, value in requested.items() if key in inherited and inherited[key] != value]
    if changed:
        listed = ", ".join(
            f"text.{key} = {requested[key]!r} ({inherited[key]!r} in the previous stage)" for key in changed
        )
        raise ConfigError(
            f"{listed}: a later stage must encode captions as {config.below.run} does. Leave these options out."
        )

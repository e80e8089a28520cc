"""Start a training from the weights of a model, to fine-tune it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from stackflower.build import load_run
from stackflower.config.schema import RunConfig
from stackflower.errors import ConfigError
from stackflower.models.describe import describe_run
from stackflower.models.finding import find_model
from stackflower.models.folder import load_model
from stackflower.models.record import ModelRecord, is_model, read_record
from stackflower.runs.folder import Run
from stackflower.stages.base import Stage

MOST_SHOWN = 5  # parameters in a message


def describe_start(model: str) -> ModelRecord:
    """Describe the model or run that a training starts from (see `find_model`).

    Raises:
        ModelError: the model does not exist or can't be read.
        RunError: the same of a run.
    """
    folder = find_model(model)
    return read_record(folder) if is_model(folder) else describe_run(Run(folder))


def inherit_networks(model: str, stage: int, parts: Mapping[str, Any]) -> dict[str, Any]:
    """Complete the parts of a training with the text encoder, conditioning and generator of the model it starts from.

    Args:
        model: name of the model.
        stage: stage to train.
        parts: requested parts, which take precedence.

    Raises:
        ConfigError: the model is of another stage.
    """
    record = describe_start(model)
    if record.stage.stage != stage:
        raise ConfigError(
            f"`start_from={model}` is a model of stage {record.stage.stage}, not {stage}; choose a model of this "
            f"stage, or set `stage={record.stage.stage}`."
        )
    networks = {"conditioning": record.stage.conditioning.to_dict(), "generator": record.stage.generator.to_dict()}
    return {"text": record.text, **networks, **parts}


def find_start_text(config: RunConfig) -> Path | None:
    """Return the folder with the files of the text encoder that a training starts from; None for another encoder."""
    if config.start_from is None:
        return None
    record, folder = describe_start(config.start_from), Run(find_model(config.start_from)).text_folder
    return folder if record.text_part.name == config.text.name else None


def load_start(model: str, stage: Stage) -> None:
    """Load the weights of a model into a stage.

    Args:
        model: name of the model.
        stage: stage to train; every parameter must have the same size as in the model.

    Raises:
        ConfigError: sizes differ; the message says which.
        ModelError: the model can't be loaded.
        RunError: the same of a run.
    """
    folder = find_model(model)
    with torch.random.fork_rng(devices=[]):  # building networks draws weights, which are then replaced
        trained = load_model(folder)[0] if is_model(folder) else load_run(Run(folder), False, None)[0]
    weights, expected = trained.state_dict(), stage.state_dict()
    sizes = {name: [_show_size(state.get(name)) for state in (weights, expected)] for name in {**weights, **expected}}
    differing = [f"{name} ({old} in the model, {new} here)" for name, (old, new) in sizes.items() if old != new]
    if differing:
        more = f" and {len(differing) - MOST_SHOWN} more" if len(differing) > MOST_SHOWN else ""
        raise ConfigError(
            f"`start_from={model}`: the sizes of the networks differ: {', '.join(differing[:MOST_SHOWN])}{more}. Leave "
            "out the generator, conditioning and text encoder, which then are the model's."
        )
    stage.load_state_dict(weights)


def _show_size(value: torch.Tensor | None) -> str:
    return "missing" if value is None else "×".join(map(str, value.shape)) or "a number"

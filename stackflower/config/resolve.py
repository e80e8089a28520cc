"""Resolve a merged tree into a checked configuration. Only defaults are added; no value is changed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType, NoneType
from typing import Any

from stackflower import registry
from stackflower.config import requirements
from stackflower.config.schema import (
    LENGTHS,
    OPTIMIZERS,
    OPTIONAL,
    PARTS,
    SECTIONS,
    Optimizer,
    Part,
    PreviousStage,
    RunConfig,
    Train,
)
from stackflower.errors import ConfigError
from stackflower.options import Count, Seed, describe_problem, describe_value, read_section, suggest

HEADER = ("description", "source", "deviations", "recipe", "stage", "seed", "mixed_precision", "below", "start_from")
PRECISIONS = ("auto", "no", "bf16", "fp16")
OPTIMIZER_DEFAULTS: dict[str, dict[str, Any]] = {"text": {"clip_norm": 10.0}}  # the competition report's


def resolve(tree: Mapping[str, Any], parameters: Mapping[str, str] = MappingProxyType({})) -> RunConfig:
    """Check a merged tree and return it as a RunConfig.

    Args:
        tree: result of `merge` or of `RunConfig.to_dict`.
        parameters: parameters that the caller gave, as of `describe_value`, so that messages name them.

    Raises:
        ConfigError: a list of all mistakes.
    """
    problems: list[str] = []
    allowed = (*HEADER, *PARTS, *OPTIONAL, *SECTIONS, "penalties", "optimizer")
    problems += [f"Unknown section or key {key!r}.{suggest(key, allowed)}" for key in tree if key not in allowed]
    problems += _check_header(tree, parameters)
    parts = {kind: _read_part(tree, kind, problems, parameters) for kind in PARTS}
    sections: dict[str, Any] = {
        name: read_section(cls, tree.get(name, {}), name, problems, partial=True, parameters=parameters)
        for name, cls in SECTIONS.items()
    }
    config = RunConfig(
        recipe=str(tree.get("recipe", "")),
        stage=tree["stage"],
        seed=tree["seed"],
        mixed_precision=tree["mixed_precision"],
        data=parts["data"],
        text=parts["text"],
        conditioning=parts["conditioning"],
        generator=parts["generator"],
        discriminator=parts["discriminator"],
        augmentation=parts["augmentation"],
        objective=parts["objective"],
        features=_read_features(tree, problems, parameters),
        penalties=_read_penalties(tree.get("penalties", {}), problems, parameters),
        train=sections["train"],
        output=sections["output"],
        optimizer=_read_optimizers(tree.get("optimizer", {}), problems, parameters),
        below=_read_previous_stage(tree.get("below"), problems),
        start_from=tree.get("start_from"),
    )
    if not problems:  # refused values were replaced by defaults, which say nothing about the length
        problems += _check_length(config.train, parameters)
    problems += requirements.check_scores(config.output)
    if describe_problem(config.stage, Count) is None:
        problems += _check_stage(config)
        problems += requirements.check(tree)
    if problems:
        raise ConfigError(dict.fromkeys(problems))
    return config


def _check_header(tree: Mapping[str, Any], parameters: Mapping[str, str]) -> list[str]:
    """Check the keys of the tree that are not tables; raise ConfigError if one is missing."""
    missing = [f"{key} is missing." for key in ("stage", "seed", "mixed_precision") if key not in tree]
    if missing:
        raise ConfigError(missing)
    problems = []
    if not isinstance(tree.get("recipe", ""), str):
        problems.append(f"recipe = {tree['recipe']!r}: it should be the name of a recipe, or a TOML file.")
    values = {key: describe_value(key, tree[key], parameters) for key in ("stage", "seed", "mixed_precision")}
    if describe_problem(tree["stage"], Count):
        problems.append(f"{values['stage']}: allowed are 1, 2, 3 …")
    if not isinstance(tree.get("start_from"), (str, NoneType)):
        problems.append(f"start_from = {tree['start_from']!r}: it should be the name of a model.")
    if tree["mixed_precision"] not in PRECISIONS:
        problems.append(f"{values['mixed_precision']}: allowed are {', '.join(PRECISIONS)}.")
    if wrong := describe_problem(tree["seed"], Seed):
        problems.append(f"{values['seed']}: {wrong}")
    return problems


def _check_length(train: Train, parameters: Mapping[str, str]) -> list[str]:
    """Check the length of the training and the parts of a batch, each of which depends on several settings."""
    problems = []
    lengths = [name for name in LENGTHS if getattr(train, name) is not None]
    if len(lengths) != 1:
        names = " and ".join(f"train.{name}" for name in lengths) or "none"
        problems.append(
            f"Set the length of the training with one of {', '.join(f'train.{name}' for name in LENGTHS)}; got {names}."
        )
    parts = train.gradient_accumulation * train.latents_per_caption
    if train.batch_size % parts:
        problems.append(
            f"{describe_value('train.batch_size', train.batch_size, parameters)} must be divisible by "
            f"gradient_accumulation × latents_per_caption = {parts}."
        )
    return problems


def _check_stage(config: RunConfig) -> list[str]:
    """Check that the stage follows the previous stage."""
    stage, below = config.stage, config.below
    if below is None and stage > 1:
        return [f"`stage={stage}` refines a trained run of stage {stage - 1}; set it with `below=RUN`."]
    if below is not None and stage != below.stage + 1:
        return [f"`below={below.run}` is a run of stage {below.stage}, so the next stage is `stage={below.stage + 1}`."]
    return []


def _read_optimizers(values: Any, problems: list[str], parameters: Mapping[str, str]) -> dict[str, Optimizer]:
    if not (isinstance(values, Mapping) and all(isinstance(settings, Mapping) for settings in values.values())):
        problems.append(
            f"optimizer = {values!r}: it should be a table per network, as in [optimizer.generator] lr = 2e-4."
        )
        values = {}
    problems += [
        f"Unknown section optimizer.{name}.{suggest(name, OPTIMIZERS)}" for name in values if name not in OPTIMIZERS
    ]
    optimizers = {}
    for name in OPTIMIZERS:
        settings = {**OPTIMIZER_DEFAULTS.get(name, {}), **values.get(name, {})}
        section = read_section(Optimizer, settings, f"optimizer.{name}", problems, partial=True, parameters=parameters)
        optimizers[name] = section or Optimizer()
    return optimizers


def _read_part(tree: Mapping[str, Any], kind: str, problems: list[str], parameters: Mapping[str, str]) -> Part:
    values = tree.get(kind)
    if not isinstance(values, Mapping) or not isinstance(values.get("name"), str):
        problems.append(f'{kind} = {values!r}: it should be a table with a name, as in [{kind}] name = "…".')
        return Part("")
    options = {key: value for key, value in values.items() if key != "name"}
    return _check_part(kind, values["name"], options, problems, parameters)


def _check_part(
    kind: str, name: str, options: Mapping[str, Any], problems: list[str], parameters: Mapping[str, str]
) -> Part:
    """Check a part and add the defaults of its other options, so that a run keeps them if a later version changes."""
    mistakes = registry.check(kind, name, options, parameters)
    problems += mistakes
    return Part(name, options if mistakes else registry.complete_options(kind, name, options))


def _read_features(tree: Mapping[str, Any], problems: list[str], parameters: Mapping[str, str]) -> Part | None:
    """Read the pretrained network; make the path of its weights absolute, so that a run resumes from any folder."""
    if tree.get("features") is None:
        return None
    part = _read_part(tree, "features", problems, parameters)
    weights = part.options.get("weights")
    if not isinstance(weights, str):
        return part
    return Part(part.name, {**part.options, "weights": str(Path(weights).expanduser().resolve())})


def _read_penalties(values: Any, problems: list[str], parameters: Mapping[str, str]) -> tuple[Part, ...]:
    if not isinstance(values, Mapping):
        problems.append(f"penalties = {values!r}: it should be a table per penalty, as in [penalties.r1] weight = 10.")
        return ()
    parts = []
    for name, options in values.items():
        options = options if isinstance(options, Mapping) else {"weight": options}
        parts.append(_check_part("penalty", name, options, problems, parameters))
    return tuple(parts)


def _read_previous_stage(values: Any, problems: list[str]) -> PreviousStage | None:
    try:
        return PreviousStage.from_dict(values) if values else None
    except (KeyError, TypeError, ValueError, AttributeError):
        problems.append(f"below = {values!r}: set the previous stage with `below=RUN`, which reads it from the run.")
        return None

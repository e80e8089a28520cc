"""From a merged tree to a checked configuration. Nothing is changed or filled in here but defaults."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
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
from stackflower.options import Count, Seed, describe_problem, read_section, suggest

HEADER = ("description", "source", "deviations", "recipe", "stage", "seed", "mixed_precision", "below")
PRECISIONS = ("auto", "no", "bf16", "fp16")
OPTIMIZER_DEFAULTS: dict[str, dict[str, Any]] = {"text": {"clip_norm": 10.0}}  # the competition report's


def resolve(tree: Mapping[str, Any]) -> RunConfig:
    """Check a merged tree, or the result of `RunConfig.to_dict`, and return it as a RunConfig.

    Raises:
        ConfigError: a list of everything that is wrong.
    """
    problems: list[str] = []
    known = (*HEADER, *PARTS, *OPTIONAL, *SECTIONS, "penalties", "optimizer")
    problems += [f"There is no section or key {key!r}.{suggest(key, known)}" for key in tree if key not in known]
    problems += _check_header(tree)
    parts = {kind: _read_part(tree, kind, problems) for kind in PARTS}
    sections: dict[str, Any] = {
        name: read_section(cls, tree.get(name, {}), name, problems, partial=True) for name, cls in SECTIONS.items()
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
        features=_read_features(tree, problems),
        penalties=_read_penalties(tree.get("penalties", {}), problems),
        train=sections["train"],
        output=sections["output"],
        optimizer=_read_optimizers(tree.get("optimizer", {}), problems),
        below=_read_previous_stage(tree.get("below"), problems),
    )
    if not problems:  # the length says nothing of values that were refused
        problems += _check_length(config.train)
    problems += requirements.check_scores(config.output)
    if describe_problem(config.stage, Count) is None:
        problems += _check_stage(config)
        problems += requirements.check(tree)
    if problems:
        raise ConfigError(dict.fromkeys(problems))
    return config


def _check_header(tree: Mapping[str, Any]) -> list[str]:
    missing = [f"{key} is missing." for key in ("stage", "seed", "mixed_precision") if key not in tree]
    if missing:
        raise ConfigError(missing)
    problems = []
    if not isinstance(tree.get("recipe", ""), str):
        problems.append(f"recipe = {tree['recipe']!r}: it should be the name of a recipe, or a file.")
    if describe_problem(tree["stage"], Count):
        problems.append(f"stage = {tree['stage']!r}: allowed are 1, 2, 3 …")
    if tree["mixed_precision"] not in PRECISIONS:
        problems.append(f"mixed_precision = {tree['mixed_precision']!r}: allowed are {', '.join(PRECISIONS)}.")
    if wrong := describe_problem(tree["seed"], Seed):
        problems.append(f"seed = {tree['seed']!r}: {wrong}")
    return problems


def _check_length(train: Train) -> list[str]:
    """Return what is wrong with the length of the training and the parts of a batch, which several settings decide."""
    problems = []
    given = [name for name in LENGTHS if getattr(train, name) is not None]
    if len(given) != 1:
        what = " and ".join(f"train.{name}" for name in given) or "none"
        problems.append(
            f"The length of the training: give one of {', '.join(f'train.{name}' for name in LENGTHS)}; given: {what}."
        )
    parts = train.gradient_accumulation * train.latents_per_caption
    if train.batch_size % parts:
        problems.append(
            f"train.batch_size = {train.batch_size} must divide by gradient_accumulation × latents_per_caption = "
            f"{parts}."
        )
    return problems


def _check_stage(config: RunConfig) -> list[str]:
    """Return what is wrong with the stage and the previous one."""
    stage, below = config.stage, config.below
    if below is None and stage > 1:
        return [f"`stage={stage}` refines a trained run of stage {stage - 1}: add `below=RUN`."]
    if below is not None and stage != below.stage + 1:
        return [f"`below={below.run}` is of stage {below.stage}, so the stage over it is `stage={below.stage + 1}`."]
    return []


def _read_optimizers(values: Any, problems: list[str]) -> dict[str, Optimizer]:
    if not (isinstance(values, Mapping) and all(isinstance(settings, Mapping) for settings in values.values())):
        problems.append(
            f"optimizer = {values!r}: it should be a table for each, as in [optimizer.generator] lr = 2e-4."
        )
        values = {}
    problems += [
        f"There is no optimizer.{name}.{suggest(name, OPTIMIZERS)}" for name in values if name not in OPTIMIZERS
    ]
    found = {}
    for name in OPTIMIZERS:
        settings = {**OPTIMIZER_DEFAULTS.get(name, {}), **values.get(name, {})}
        found[name] = read_section(Optimizer, settings, f"optimizer.{name}", problems, partial=True) or Optimizer()
    return found


def _read_part(tree: Mapping[str, Any], kind: str, problems: list[str]) -> Part:
    values = tree.get(kind)
    if not isinstance(values, Mapping) or not isinstance(values.get("name"), str):
        problems.append(f'{kind} = {values!r}: it should be a table with a name, as in [{kind}] name = "…".')
        return Part("")
    return _check_part(kind, values["name"], {key: value for key, value in values.items() if key != "name"}, problems)


def _check_part(kind: str, name: str, options: Mapping[str, Any], problems: list[str]) -> Part:
    """Return a part with the defaults of its other options: a later default does not change an earlier run."""
    wrong = registry.check(kind, name, options)
    problems += wrong
    return Part(name, options if wrong else registry.complete_options(kind, name, options))


def _read_features(tree: Mapping[str, Any], problems: list[str]) -> Part | None:
    """Return the pretrained network, its weights by their absolute path, so that a run resumes from any folder."""
    if tree.get("features") is None:
        return None
    part = _read_part(tree, "features", problems)
    weights = part.options.get("weights")
    if not isinstance(weights, str):
        return part
    return Part(part.name, {**part.options, "weights": str(Path(weights).expanduser().resolve())})


def _read_penalties(values: Any, problems: list[str]) -> tuple[Part, ...]:
    if not isinstance(values, Mapping):
        problems.append(f"penalties = {values!r}: it should be a table for each, as in [penalties.r1] weight = 10.")
        return ()
    parts = []
    for name, options in values.items():
        options = options if isinstance(options, Mapping) else {"weight": options}
        parts.append(_check_part("penalty", name, options, problems))
    return tuple(parts)


def _read_previous_stage(values: Any, problems: list[str]) -> PreviousStage | None:
    try:
        return PreviousStage.from_dict(values) if values else None
    except (KeyError, TypeError, ValueError, AttributeError):
        problems.append(f"below = {values!r}: the previous stage is set by `below=RUN`, which reads it from the run.")
        return None

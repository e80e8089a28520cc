"""From a merged tree to a checked configuration."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, get_type_hints

from stackflower import registry
from stackflower.config.compatibility import BOUNDS, lengths, mixes
from stackflower.config.schema import Lower, Optimizer, Output, Part, RunConfig, Train
from stackflower.errors import ComponentError, ConfigError
from stackflower.options import out_of_range

PARTS = ("data", "text", "conditioning", "generator", "discriminator", "objective")
SECTIONS: dict[str, type] = {"train": Train, "output": Output}
SIDES = ("generator", "discriminator", "text")
SIDE_DEFAULTS: dict[str, dict[str, Any]] = {"text": {"clip_norm": 10.0}}  # the competition report's
HEADER = ("description", "source", "deviations", "recipe", "stage", "seed", "mixed_precision", "below")
PRECISIONS = ("auto", "no", "bf16", "fp16")


def _section(cls: type, values: Any, name: str, problems: list[str]) -> Any:
    """A dataclass from plain values, collecting what is wrong."""
    if not isinstance(values, Mapping):
        problems.append(
            f"{name} = {values!r}: wanted a section with {', '.join(f.name for f in dataclasses.fields(cls))}."
        )
        return cls()
    hints, good = get_type_hints(cls, include_extras=True), {}
    for key, value in values.items():
        if key not in hints:
            problems.append(f"There is no setting {name}.{key}.{registry.suggest(key, hints)}")
        elif not registry.fits(value, hints[key]):
            problems.append(f"{name}.{key} = {value!r}: wanted {registry.describe(hints[key])}.")
        elif wrong := out_of_range(value, hints[key]):
            problems.append(f"{name}.{key} = {value}: {wrong}")
        else:
            good[key] = value
    return cls(**good)


def _part(tree: Mapping[str, Any], kind: str, problems: list[str]) -> Part:
    values = tree.get(kind)
    if not isinstance(values, Mapping) or not isinstance(values.get("name"), str):
        problems.append(f'{kind} = {values!r}: wanted a section with a name, as in [{kind}] name = "…".')
        return Part("")
    options = {key: value for key, value in values.items() if key != "name"}
    problems += registry.check(kind, values["name"], options)
    return Part(values["name"], _with_defaults(kind, values["name"], options))


def _with_defaults(kind: str, name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """The options given and the defaults of the rest: a later default does not change an earlier run."""
    try:
        known = registry.options(kind, name)
    except ComponentError:
        return dict(given)  # told by `registry.check`
    defaults = {key: p.default for key, p in known.items() if p.default is not p.empty}
    return {**{key: list(v) if isinstance(v, tuple) else v for key, v in defaults.items()}, **given}


def _penalties(values: Any, problems: list[str]) -> tuple[Part, ...]:
    if not isinstance(values, Mapping):
        problems.append(f"penalties = {values!r}: wanted a section for each, as in [penalties.r1] weight = 10.")
        return ()
    parts = []
    for name, options in values.items():
        options = options if isinstance(options, Mapping) else {"weight": options}
        problems += registry.check("penalty", name, options)
        parts.append(Part(name, _with_defaults("penalty", name, options)))
    return tuple(parts)


def _below(values: Any, problems: list[str]) -> Lower | None:
    try:
        return Lower.from_plain(values) if values else None
    except (KeyError, TypeError, ValueError, AttributeError):
        problems.append(f"below = {values!r}: the stage below is told by --below RUN, which reads it from the run.")
        return None


def resolve(tree: Mapping[str, Any]) -> RunConfig:
    """A checked RunConfig from a merged tree. ConfigError lists everything that is wrong, at once."""
    problems: list[str] = []
    tree = dict(tree)
    known = (*HEADER, *PARTS, *SECTIONS, "penalties", "optimizer")
    problems += [
        f"There is no section or key {key!r}.{registry.suggest(key, known)}" for key in tree if key not in known
    ]
    if "objective" not in tree:
        name = tree["discriminator"].get("name") if isinstance(tree.get("discriminator"), Mapping) else None
        try:
            default = registry.get("discriminator", str(name)).default_objective  # type: ignore[attr-defined]
            penalties = tree.get("penalties", {})
            unbounded = registry.get("objective", default).unbounded  # type: ignore[attr-defined]
            none = tree.get("penalties") == {}  # as --penalty none leaves it
            if unbounded and isinstance(penalties, Mapping) and not none and not BOUNDS & set(penalties):
                tree["penalties"] = {**penalties, "gradient": {}}  # it comes with its objective
        except ComponentError:
            default = "bce"  # the unknown discriminator is told below
        tree["objective"] = {"name": default}
    if not isinstance(tree["stage"], int) or tree["stage"] < 1:
        problems.append(f"--stage {tree['stage']}: allowed are 1, 2, 3 …")
    if tree["mixed_precision"] not in PRECISIONS:
        problems.append(f"mixed_precision = {tree['mixed_precision']!r}: allowed are {', '.join(PRECISIONS)}.")
    if not isinstance(tree["seed"], int) or tree["seed"] < 0:
        problems.append(f"seed = {tree['seed']!r}: wanted a whole number from 0 up.")
    optimizers = tree.get("optimizer", {})
    if not (
        isinstance(optimizers, Mapping)
        and set(optimizers) <= set(SIDES)
        and all(isinstance(settings, Mapping) for settings in optimizers.values())
    ):
        problems.append(f"optimizer has the sections {', '.join(SIDES)}, each with settings; given: {optimizers!r}.")
        optimizers = {}
    parts = {kind: _part(tree, kind, problems) for kind in PARTS}
    sections = {name: _section(cls, tree.get(name, {}), name, problems) for name, cls in SECTIONS.items()}
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
        objective=parts["objective"],
        penalties=_penalties(tree.get("penalties", {}), problems),
        train=sections["train"],
        optimizer={
            side: _section(
                Optimizer, {**SIDE_DEFAULTS.get(side, {}), **optimizers.get(side, {})}, f"optimizer.{side}", problems
            )
            for side in SIDES
        },
        output=sections["output"],
        below=_below(tree.get("below"), problems),
    )
    problems += ([] if problems else lengths(config)) + mixes(config)  # lengths say nothing of values that were refused
    if problems:
        raise ConfigError(dict.fromkeys(problems))
    return config


def from_plain(values: Mapping[str, Any]) -> RunConfig:
    """A RunConfig from what `RunConfig.plain` gave."""
    return resolve(values)

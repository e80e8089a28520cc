"""What goes together in a run and what does not: a sentence for each impossible mix, naming both sides."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stackflower import registry
from stackflower.errors import ComponentError

if TYPE_CHECKING:
    from stackflower.config.schema import RunConfig

BOUNDS = frozenset({"gradient", "matching-aware", "r1"})  # penalties that keep a discriminator's slope in bounds


def lengths(config: RunConfig) -> list[str]:
    """Training's length and the parts of a batch, which several settings decide together."""
    problems = []
    train = config.train
    if (train.images is None) == (train.epochs is None):
        given = "neither" if train.images is None else "both"
        problems.append(f"Training's length: give either train.images or train.epochs; {given} is given.")
    parts = train.gradient_accumulation * train.noises_per_caption
    if train.batch_size % parts:
        problems.append(
            f"train.batch_size = {train.batch_size} must divide by gradient_accumulation × noises_per_caption = {parts}."
        )
    return problems


def _stages(config: RunConfig) -> list[str]:
    """Stage, generator and what lies below must agree."""
    generator, below = registry.get("generator", config.generator.name), config.below
    refines = generator.refines  # type: ignore[attr-defined]
    known = {name: registry.get("generator", name) for name in registry.names("generator")}
    fitting = ", ".join(name for name, cls in known.items() if cls.refines == (config.stage > 1))  # type: ignore[attr-defined]
    problems = []
    if config.stage > 1 and below is None:
        problems.append(
            f"--stage {config.stage} draws over a trained run of stage {config.stage - 1}: add --below RUN."
        )
    elif below is not None and config.stage != below.stage + 1:
        problems.append(
            f"--below {below.run} is of stage {below.stage}, so what is trained over it is --stage {below.stage + 1}."
        )
    if refines != (config.stage > 1):
        what = "draws over a stage below and so needs --stage 2 --below RUN" if refines else "draws from noise alone"
        problems.append(
            f"generator {config.generator.name!r} {what}; with --stage {config.stage} use one of: {fitting}."
        )
    return problems


def mixes(config: RunConfig) -> list[str]:
    """Parts that don't go together, a sentence each that names both."""
    try:
        discriminator = registry.get("discriminator", config.discriminator.name)
        objective = registry.get("objective", config.objective.name)
        problems = _stages(config)
    except ComponentError:
        return []
    penalties = {part.name for part in config.penalties}
    if "mode-seeking" in penalties and config.train.noises_per_caption != 2:
        problems.append(
            "penalty 'mode-seeking' compares two pictures of one caption: add --set train.noises_per_caption=2 "
            f"(it is {config.train.noises_per_caption})."
        )
    options = config.discriminator.options
    shared = [
        f"{key}={value}"
        for key, value in (("norm", "batch"), ("minibatch_deviation", True))
        if options.get(key) == value
    ]
    problems += [
        f"penalty {name!r} measures a picture's own slope, and discriminator {config.discriminator.name!r} with "
        f"{' and '.join(shared)} judges a picture by its neighbours: use --discriminator critic, or --set "
        "discriminator.norm=layer and --set discriminator.minibatch_deviation=false."
        for name in sorted(penalties & {"gradient", "matching-aware"})
        if shared
    ]
    for name in sorted(penalties & set(registry.names("penalty"))):
        wanted = registry.get("penalty", name).reads  # type: ignore[attr-defined]
        if wanted not in (None, discriminator.reads):  # type: ignore[attr-defined]
            problems.append(
                f"penalty {name!r} reads {wanted} scores and discriminator {config.discriminator.name!r} gives "
                f"{discriminator.reads} scores; leave one of them out."  # type: ignore[attr-defined]
            )
    bounded = {part.name for part in config.penalties if part.options.get("weight", 1)} & BOUNDS
    if objective.unbounded and not bounded:  # type: ignore[attr-defined]
        problems.append(
            f"objective {config.objective.name!r} lets the discriminator grow without bound: add a penalty on its slope, one of "
            f"{', '.join(f'--penalty {name}' for name in sorted(BOUNDS))}."
        )
    if discriminator.reads != objective.reads:  # type: ignore[attr-defined]
        problems.append(
            f"discriminator {config.discriminator.name!r} gives {discriminator.reads} scores and "  # type: ignore[attr-defined]
            f"objective {config.objective.name!r} wants {objective.reads} scores; "  # type: ignore[attr-defined]
            f"with this discriminator use --objective {discriminator.default_objective}."  # type: ignore[attr-defined]
        )
    if any(settings.plateau for settings in config.optimizer.values()) and not objective.converges:  # type: ignore[attr-defined]
        problems.append(
            f"optimizer.*.plateau follows a convergence measure, and objective {config.objective.name!r} has none; use "
            "--objective began, or the schedules halve_every and decay_from."
        )
    return problems

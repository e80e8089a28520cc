"""Which settings and parts go together: a sentence for each combination that can't work, naming both sides.

What a part needs or offers is an attribute of its class, so that a third party's counts too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from stackflower import registry
from stackflower.config.schema import LENGTHS, RunConfig, Train
from stackflower.errors import ComponentError


def length_problems(train: Train) -> list[str]:
    """The length of the training and the parts of a batch, which several settings decide together."""
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
            f"train.batch_size = {train.batch_size} must divide by gradient_accumulation × latents_per_caption = {parts}."
        )
    return problems


def incompatible(config: RunConfig) -> list[str]:
    """Parts that don't go together. Parts that are unknown are reported elsewhere."""
    try:
        discriminator: Any = registry.get("discriminator", config.discriminator.name)
        objective: Any = registry.get("objective", config.objective.name)
        registry.get("generator", config.generator.name)
    except ComponentError:
        return []
    return [
        *_stages(config),
        *_penalties(config, discriminator),
        *_gradient_penalty(config, objective),
        *_score_type(config, discriminator, objective),
        *_plateau(config, objective),
        *_relativistic(config, objective),
        *_features(config),
        *_augmentation(config, discriminator, objective),
        *_contrast(config, objective),
        *_scores(config),
    ]


def _names(kind: str, wanted: Callable[[Any], bool]) -> list[str]:
    """The parts of a kind that are wanted; one of another distribution that can't be imported is left out."""
    found = []
    for name in registry.list_parts(kind):
        try:
            if wanted(registry.get(kind, name)):
                found.append(name)
        except (ComponentError, AttributeError):
            continue
    return found


def _scores(config: RunConfig) -> Iterator[str]:
    """Metrics of scores in training, one of which chooses the best model."""
    output = config.output
    if not output.eval_every:
        return
    choosing = _names("metric", lambda metric: metric.measure is not None)
    if output.best not in choosing:
        yield f"output.best = {output.best!r}: a metric that chooses the best model is one of {', '.join(choosing)}."
    unknown = [name for name in output.eval_metrics if name not in registry.list_parts("metric")]
    if unknown:
        yield f"output.eval_metrics: {', '.join(unknown)}; allowed are {', '.join(registry.list_parts('metric'))}."
    elif output.best in choosing and output.best not in output.eval_metrics:
        yield f"output.best = {output.best!r} is not among output.eval_metrics = {list(output.eval_metrics)}."


def _stages(config: RunConfig) -> Iterator[str]:
    """Stage, generator and previous stage must agree."""
    generator: Any = registry.get("generator", config.generator.name)
    refines, below = generator.refines, config.below
    if config.stage > 1 and below is None:
        yield f"--stage {config.stage} refines a trained run of stage {config.stage - 1}: add --below RUN."
    elif below is not None and config.stage != below.stage + 1:
        yield f"--below {below.run} is of stage {below.stage}, so the stage over it is --stage {below.stage + 1}."
    if refines != (config.stage > 1):
        fitting = ", ".join(_names("generator", lambda cls: cls.refines == (config.stage > 1)))
        what = "refines a previous stage and so needs --stage 2 --below RUN" if refines else "starts from noise alone"
        yield f"generator {config.generator.name!r} {what}; with --stage {config.stage} use one of: {fitting}."


def _penalties(config: RunConfig, discriminator: Any) -> Iterator[str]:
    """What each penalty needs of the batch and of the discriminator."""
    options = config.discriminator.options
    of_the_batch = [
        f"{key}={value}"
        for key, value in (("norm", "batch"), ("minibatch_deviation", True))
        if options.get(key) == value
    ]
    for name in sorted({part.name for part in config.penalties} & set(registry.list_parts("penalty"))):
        penalty: Any = registry.get("penalty", name)
        wanted = penalty.latents_per_caption
        if wanted is not None and config.train.latents_per_caption != wanted:
            yield (
                f"penalty {name!r} compares {wanted} images of one caption: add --set train.latents_per_caption={wanted} "
                f"(it is {config.train.latents_per_caption})."
            )
        if penalty.per_image and of_the_batch:
            yield (
                f"penalty {name!r} measures the gradient at each image, and discriminator {config.discriminator.name!r} with "
                f"{' and '.join(of_the_batch)} scores an image by the whole batch: use --discriminator critic, or --set "
                "discriminator.norm=layer and --set discriminator.minibatch_deviation=false."
            )
        if penalty.uses_maps and not registry.takes("discriminator", config.discriminator.name, "features"):
            yield (
                f"penalty {name!r} compares what the discriminator sees through a pretrained network, and discriminator "
                f"{config.discriminator.name!r} has none: use --discriminator projected, or leave the penalty out."
            )
        if penalty.score_type not in (None, discriminator.score_type):
            yield (
                f"penalty {name!r} works on {penalty.score_type} scores and discriminator {config.discriminator.name!r} gives "
                f"{discriminator.score_type} scores; leave one of them out."
            )


def _gradient_penalty(config: RunConfig, objective: Any) -> Iterator[str]:
    """A loss without a lower bound needs a penalty that limits the discriminator's gradient."""
    if not objective.needs_gradient_penalty:
        return
    limiting = _names("penalty", lambda cls: cls.limits_gradient)
    given = {part.name for part in config.penalties if part.options.get("weight", 1)}
    if not given & set(limiting):
        yield (
            f"objective {config.objective.name!r} lets the discriminator grow without bound: add a gradient penalty, one of "
            f"{', '.join(f'--penalty {name}' for name in limiting)}."
        )


def _score_type(config: RunConfig, discriminator: Any, objective: Any) -> Iterator[str]:
    if discriminator.score_type != objective.score_type:
        yield (
            f"discriminator {config.discriminator.name!r} gives {discriminator.score_type} scores and objective "
            f"{config.objective.name!r} takes {objective.score_type} scores; with this discriminator use "
            f"--objective {discriminator.default_objective}."
        )


def _augmentation(config: RunConfig, discriminator: Any, objective: Any) -> Iterator[str]:
    """An augmentation may follow the sign of scores, which must mean something, and may show parts of images."""
    try:
        augmentation: Any = registry.get("augmentation", config.augmentation.name)
    except ComponentError:
        return
    option = augmentation.adaptive_option
    if option is not None and config.augmentation.options.get(option) and not objective.centred:
        yield (
            f"augmentation {config.augmentation.name!r} follows the sign of the scores of real images, and with objective "
            f"{config.objective.name!r} it tells nothing: --set augmentation.{option}=0 keeps its strength, and objectives hinge, bce and "
            "relativistic go with it."
        )
    option = augmentation.cropping_option
    if option is not None and config.augmentation.options.get(option) and not discriminator.any_size:
        yield (
            f"augmentation.{option} shows the discriminator parts of images, and {config.discriminator.name!r} takes whole ones only: "
            f"leave it out, or use --discriminator projected."
        )


def _features(config: RunConfig) -> Iterator[str]:
    penalties = [part.name for part in config.penalties if part.options.get("space") == "features"]
    users = penalties + [config.discriminator.name] * registry.takes(
        "discriminator", config.discriminator.name, "features"
    )
    if users and config.features is None:
        yield f"{users[0]!r} looks through a pretrained network: add --features efficientnet-lite0."
    if config.features is not None and not users:
        yield (
            f"features {config.features.name!r} are used by nothing: leave them out, or look through them with --discriminator "
            "projected or --set penalties.mode-seeking.space=features."
        )


def _contrast(config: RunConfig, objective: Any) -> Iterator[str]:
    """Captions are drawn for the contrast where something contrasts."""
    contrasts = objective.contrasts and config.discriminator.options.get("contrastive", False)
    if config.train.contrasted and not contrasts:
        yield (
            f"train.contrasted = {config.train.contrasted} captions are for a contrast, and objective {config.objective.name!r} with discriminator "
            f"{config.discriminator.name!r} has none: --set train.contrasted=0, or an objective such as hinge with --set discriminator.contrastive=true."
        )


def _relativistic(config: RunConfig, objective: Any) -> Iterator[str]:
    if objective.relativistic and config.train.interpolated:
        yield (
            f"objective {config.objective.name!r} compares each generated image with a real one of the same text, and "
            f"train.interpolated = {config.train.interpolated} generates images of texts that no real image has: --set "
            "train.interpolated=0."
        )


def _plateau(config: RunConfig, objective: Any) -> Iterator[str]:
    if any(settings.plateau for settings in config.optimizer.values()) and not objective.converges:
        yield (
            f"optimizer.*.plateau follows a convergence measure, and objective {config.objective.name!r} has none; use "
            "--objective began, or the schedules halve_every and decay_from."
        )

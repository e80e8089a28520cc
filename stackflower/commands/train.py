"""The train command: from a recipe and flags to a trained run."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import torch
from safetensors import SafetensorError
from torch import Tensor

from stackflower import build
from stackflower.config import resolve as configuration
from stackflower.config.merge import merge
from stackflower.config.schema import RunConfig
from stackflower.data.prepared import Prepared, prepare
from stackflower.data.source import Source
from stackflower.errors import ConfigError, RunError
from stackflower.recipes.load import load_recipe
from stackflower.runs.folder import RunFolder, free_name, newest_run
from stackflower.runs.previous_stage import check_text, flags_over
from stackflower.text.base import TextEncoder
from stackflower.text.cache import embed
from stackflower.text.learned import LearnedEncoder
from stackflower.training import accelerator as devices
from stackflower.training.cost import cost
from stackflower.training.logger import Journal
from stackflower.training.stopping import Stop
from stackflower.training.trainer import LearnedText, Trainer
from stackflower.utils.progress import Bar, bar, duration, silent

Say = Callable[[str], None]
SPARE = 0.95  # of the time limit; grids and checkpoints take their share
# what may differ when a run goes on; that a moved folder holds what it held is checked by its contents
RESUMABLE = ("train.images", "train.epochs", "output", "mixed_precision", "data.path")


@dataclass(frozen=True)
class Request:
    """What was asked of `stackflower train`."""

    stage: int | None = None
    recipe: str | None = None
    flags: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    settings: Sequence[str] = ()
    out: str | None = None
    below: str | None = None
    resume: str | None = None
    time_limit: float | None = None
    report_to: Sequence[str] = ()
    dry_run: bool = False


@dataclass(frozen=True)
class Outcome:
    """How training ended."""

    run: RunFolder
    images: int
    stopped: str | None  # why it stopped early
    signal: int | None  # the signal that stopped it
    caption: str  # one of the data's, to draw


def choose_recipe(request: Request) -> tuple[str, str]:
    """The recipe, and the sentence that says which and why."""
    if request.recipe:
        return request.recipe, f"Recipe {request.recipe}, as asked."
    if devices.has_accelerator():
        return (
            "stackgan",
            "Recipe stackgan (the paper's, value by value), because there is a GPU; --recipe quickstart is the small one.",
        )
    return "quickstart", (
        "Recipe quickstart (narrow networks that learn in minutes), because there is no GPU; --recipe stackgan is the paper's."
    )


def resolve(request: Request, recipe: str) -> RunConfig:
    """The configuration asked for; every mistake in one list."""
    stage = 1 if request.stage is None else request.stage
    flags = {"stage": stage, **request.flags}
    if request.below is not None:
        flags = flags_over(request.below, flags)
    values = load_recipe(recipe, stage)
    train = values.get("train", {})
    for one, other in (("images", "epochs"), ("epochs", "images")):
        asked = f"train.{one}" in flags or any(text.startswith(f"train.{one}=") for text in request.settings)
        if asked and isinstance(train, Mapping):  # what else it is, is told when the whole is checked
            train = {key: value for key, value in train.items() if key != other}
    values["train"] = train
    config = configuration.resolve(merge(values, flags, request.settings))
    check_text(config, flags)
    return config


def _differences(old: Any, new: Any, path: str = "") -> list[tuple[str, Any, Any]]:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        keys = dict.fromkeys([*old, *new])
        return [
            found for key in keys for found in _differences(old.get(key), new.get(key), f"{path}.{key}".lstrip("."))
        ]
    return [] if old == new else [(path, old, new)]


def resumed(request: Request, run: RunFolder) -> RunConfig:
    """The configuration to go on with: the run's own, but for lengths and outputs. RunError for anything else."""
    old = run.config()
    tree = merge(old.plain(), {}, ())
    for key, other in (("train.images", "epochs"), ("train.epochs", "images")):
        if key in request.flags:
            tree["train"][other] = None
    if request.stage not in (None, old.stage):
        raise RunError(f"{run} is of stage {old.stage}, not {request.stage}; leave out --stage to go on with it.")
    below = None if old.below is None else old.below.run
    if request.below is not None and str(RunFolder(request.below).path.resolve()) != below:
        raise RunError(
            f"{run} was trained over {below or 'no other run'}, not {request.below}; leave out --below to go on with it."
        )
    if request.recipe and request.recipe != old.recipe:
        raise RunError(f"{run} was trained with --recipe {old.recipe}, not {request.recipe}; a run keeps its recipe.")
    new = configuration.resolve(merge(tree, request.flags, request.settings))
    changed = [
        (key, was, now)
        for key, was, now in _differences(old.plain(), new.plain())
        if not any(key == allowed or key.startswith(allowed + ".") for allowed in RESUMABLE)
    ]
    if changed:
        listed = "\n".join(f"  {key} is {was!r} in the run and {now!r} in this command" for key, was, now in changed)
        raise RunError(
            f"{run} was trained with another configuration:\n{listed}\n"
            f"Leave these out to go on with it, or train a new run with another --out."
        )
    return new


def _plan(config: RunConfig, source: Source, kept: Path | None, say: Say) -> None:
    """What --dry-run prints."""
    rows = source.rows("train")
    encoder = build.build_encoder(config, kept)
    with torch.device("meta"):
        stage, _ = build.build_networks(config, encoder.dim)
    build.load_size(config, stage, source)  # refuses what training would refuse
    found = cost(config, encoder.dim)
    say(config.json().rstrip())
    for name, value in found.items():
        if name.endswith("_parameters"):
            say(f"{name.removesuffix('_parameters') + ' parameters':<28} {value:,}")
    if isinstance(encoder, LearnedEncoder) and encoder.learns:
        build.fit_encoder(config, encoder, [caption for captions in rows.captions for caption in captions])
        text_side = build.build_text_side(config, encoder, max(stage.resolutions))
        say(f"{'text parameters':<28} {sum(p.numel() for p in text_side.parameters()):,}")
    say(f"{'images per epoch':<28} {len(rows):,}")
    say(f"{'images to train on':<28} {total_images(config, len(rows)):,}")
    say(
        f"{'FLOPs of a step':<28} {found['step_flops']:.3g} ({config.train.batch_size} images, without penalties and a text encoder's)"
    )
    say(f"{'memory for training':<28} about {found['memory_bytes'] / 2**20:,.0f} MiB, and the data and libraries")


def total_images(config: RunConfig, epoch: int) -> int:
    """How many images the configuration trains on, in whole steps' worth or a little more."""
    if config.train.images is not None:
        return int(config.train.images)
    assert config.train.epochs is not None
    return int(config.train.epochs * epoch)


def grid_captions(data: Prepared, rows: int = 8) -> list[int]:
    """Rows of the embedding table for the sample grid: the first captions of evenly spaced pictures."""
    counts = torch.tensor([len(captions) for captions in data.captions])
    offsets = counts.cumsum(0) - counts
    chosen = torch.linspace(0, len(counts) - 1, min(rows, len(counts))).long()
    return offsets[chosen].tolist()


def _data(
    config: RunConfig, source: Source, encoder: TextEncoder, size: int, say: Say, display: Bar
) -> tuple[Prepared, Tensor]:
    """The prepared split, and the embeddings of its captions; or, where the encoder learns, their tokens."""
    for warning in source.warnings("train"):
        say(f"Warning: {warning}")
    data = prepare(source, "train", size, display)
    build.fit_encoder(config, encoder, data.flat_captions())
    if isinstance(encoder, LearnedEncoder) and encoder.learns:
        return data, encoder.tokenise(data.flat_captions())
    return data, embed(data.flat_captions(), encoder, display)


def _fit_time(trainer: Trainer, stop: Stop, warm: int = 2) -> int | None:
    """How many images fit into the time limit, by the speed of some first steps; None if asked to stop meanwhile.

    As many are timed as there are between two penalties of the rarest kind, so that each penalty has its share.

    The steps are not kept: the run starts anew from its first checkpoint, so that it is what --images would have made it.
    """
    trainer.save()
    rarest = max((p.every for side in trainer.sides.values() for p in side.every_penalty()), default=1)
    timed = max(8, min(rarest, 64))
    began = 0.0
    for step in range(warm + timed):
        if step == warm:
            began = time.monotonic()
        trainer.train_step()
        if trainer.agreed(stop):
            return None
    if trainer.device.type == "cuda":
        torch.cuda.synchronize()
    each = (time.monotonic() - began) / timed
    trainer.restore(trainer.run.whole_checkpoints()[0])
    assert stop.deadline is not None
    left = max(stop.deadline - time.monotonic(), 0.0) * SPARE
    steps = torch.tensor([max(left / each, 1.0)], device=trainer.device)
    mean = trainer.accelerator.reduce(steps, "mean").item()
    return int(mean) * trainer.config.train.batch_size * trainer.config.train.critic_steps


def train(request: Request, say: Say) -> Outcome | None:
    """Train or go on; None after a dry run. Every StackflowerError is a sentence for the user."""
    run, going_on = None, False
    if request.resume:
        named = request.out if request.resume == "latest" and request.out else request.resume
        if request.out and Path(request.out) != Path(named):
            raise ConfigError(f"--resume {named} goes on in {named}; leave out --out {request.out}.")
        run = newest_run() if named == "latest" else RunFolder(named)
        config, going_on = resumed(request, run), True
        reason = f"Going on with {run} (recipe {config.recipe})."
    else:
        recipe, reason = choose_recipe(request)
        config = resolve(request, recipe)
    precision = devices.resolve_precision(config.mixed_precision)
    say(f"{reason} {devices.describe_device(precision)}.")
    run = run or RunFolder(request.out or free_name(config.recipe))
    if request.dry_run:
        devices.check_trackers(request.report_to)
        if not going_on:
            run.refuse_taken()
        kept = _kept(config, run, going_on)
        _plan(config, build.build_source(config), kept, lambda text: click.echo(text))
        say(f"Nothing was created; the run would be {run}.")
        return None
    fits_time = (
        request.time_limit is not None
        and not going_on
        and not {"train.images", "train.epochs"}
        & {*request.flags, *(text.partition("=")[0] for text in request.settings)}
    )
    return _run(config, run, going_on, fits_time, request, say)


def _same_data(run: RunFolder, key: str, fingerprint: str) -> None:
    """RunError if a run would go on with other pictures, captions or embeddings than it has seen."""
    known = run.values()
    changed = [
        what
        for what, was, now in (
            ("the pictures or captions", known.get("data_key"), key),
            ("the text encoder", known.get("encoder"), fingerprint),
        )
        if was not in (None, now)
    ]
    if changed:
        raise RunError(
            f"Since {run} was trained, {' and '.join(changed)} changed, so it can't go on as it was. Put back what it was "
            "trained with, or train a new run with another --out."
        )


def _run(config: RunConfig, run: RunFolder, going_on: bool, fits_time: bool, request: Request, say: Say) -> Outcome:
    stop = Stop(request.time_limit)
    accelerator = devices.make_accelerator(config, request.report_to, str(run.path))
    main = accelerator.is_main_process
    encoder = build.build_encoder(config, _kept(config, run, going_on))
    source = build.build_source(config)
    stage, _ = build.build_networks(config, encoder.dim)  # what they refuse is told before anything is written
    size = build.load_size(config, stage, source)
    with ExitStack() as stack:
        if main and not going_on:
            run.refuse_taken()
        elif main:
            stack.enter_context(run.lock())
        # the first process prepares the data, the others then find it in the cache
        with accelerator.main_process_first():
            data, table = _data(config, source, encoder, size, say if main else _ignore, bar if main else silent)
        table = table.to(accelerator.device)
        text = _learned(encoder, table, accelerator.device)
        stack.enter_context(stop.listening())  # until here there is nothing to save, and Ctrl-C ends at once
        chosen = grid_captions(data)
        captions = [data.flat_captions()[row] for row in chosen]
        values = functools.partial(
            build.run_values,
            text_dim=encoder.dim,
            load_size=size,
            data_key=data.key,
            encoder=encoder.fingerprint(),
            precision=accelerator.mixed_precision,
        )
        if going_on:
            _same_data(run, data.key, encoder.fingerprint())
        if main and not going_on:
            stack.enter_context(run.lock())
            run.create(values(config))
            _keep_encoder(encoder, run)
        accelerator.wait_for_everyone()
        if request.report_to:
            accelerator.init_trackers("stackflower", config=None)
        journal = Journal(run, accelerator, captions, table[chosen], config.seed)
        embed = table.__getitem__ if text is None else text.embed
        trainer = Trainer(
            config,
            run,
            accelerator,
            lambda noise: build.build_batches(config, data, embed, max(stage.resolutions), noise, accelerator.device),
            encoder.dim,
            journal,
            total_images(config, len(data.rows)),
            text,
            _lower_weights(config, run),
        )
        if going_on:
            _go_on(trainer, run, say)
        fitting = _fit_time(trainer, stop) if fits_time else None
        if fitting is not None:
            trainer.total = fitting
            config = dataclasses.replace(config, train=dataclasses.replace(config.train, images=fitting, epochs=None))
            trainer.config = config
            say(f"{fitting:,} images fit into {duration(request.time_limit or 0)}.")
        if main:
            run.update(values(config))
        stopped = trainer.train(stop)
        accelerator.end_training()
        return Outcome(run, trainer.images, stopped, stop.signal, captions[0])


def _kept(config: RunConfig, run: RunFolder, going_on: bool) -> Path | None:
    """Where the text encoder is kept already: in a run that goes on, or in the stage below's."""
    if going_on:
        return run.text_folder
    return None if config.below is None else RunFolder(config.below.run).text_folder


def _keep_encoder(encoder: TextEncoder, run: RunFolder) -> None:
    try:
        encoder.save(run.text_folder)
    except (OSError, SafetensorError) as error:
        raise RunError(f"{run.text_folder} can't be written: {error}. Make room, or choose another --out.") from error


def _learned(encoder: TextEncoder, tokens: Tensor, device: torch.device) -> LearnedText | None:
    """The encoder with its captions, where it is trained here."""
    if not (isinstance(encoder, LearnedEncoder) and encoder.learns):
        return None
    encoder.network.to(device)
    return LearnedText(encoder, tokens)


def _lower_weights(config: RunConfig, run: RunFolder) -> Path | None:
    """The model of the run below, until the first checkpoint of this one holds it too."""
    if config.below is None or run.whole_checkpoints():
        return None
    return RunFolder(config.below.run).weights_file


def _go_on(trainer: Trainer, run: RunFolder, say: Say) -> None:
    """Restore the last whole checkpoint. RunError where there is a model and none."""
    whole = run.whole_checkpoints()
    if whole:
        trainer.restore(whole[-1])
        say(f"From {trainer.images:,} images on.")
    elif run.weights_file.exists():
        raise RunError(
            f"{run} has a trained model and no checkpoint to go on from ({run.checkpoints} is empty or gone); going on would "
            "begin anew and overwrite it. `stackflower sample` still draws with it; train a new run with another --out."
        )
    else:
        say("It has no whole checkpoint: from the beginning.")


def _ignore(text: str) -> None:
    """What processes other than the first say."""

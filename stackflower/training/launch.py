"""Launch a training: from a request to a trained run."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from accelerate.state import AcceleratorState, is_initialized
from safetensors import SafetensorError

from stackflower import build
from stackflower.config.schema import RunConfig
from stackflower.data.opening import source_part
from stackflower.data.sources.stream import ShardStream
from stackflower.errors import RunError
from stackflower.evaluation.during_training import TrainingScorer
from stackflower.runs.folder import Run
from stackflower.runs.previous_stage import keep_weights
from stackflower.runs.record import RunRecord
from stackflower.runs.trained_text import encoder_part
from stackflower.text.base import TextEncoder
from stackflower.training.accelerator import check_trackers, keep_memory, make_accelerator
from stackflower.training.callbacks import Callback, CallbackList
from stackflower.training.cost import plan
from stackflower.training.request import TrainingRequest
from stackflower.training.setup import make_trainer, read_inputs
from stackflower.training.stopping import Stop, naming_lost_processes
from stackflower.training.trainer import Trainer
from stackflower.utils import devices
from stackflower.utils.progress import progress_bars

logger = logging.getLogger(__name__)


def train(
    recipe: str | None = None,
    *,
    data: str | os.PathLike[str] | Mapping[str, Any] | None = None,
    out: str | os.PathLike[str] | None = None,
    stage: int | None = None,
    below: str | os.PathLike[str] | None = None,
    text: str | Mapping[str, Any] | None = None,
    conditioning: str | Mapping[str, Any] | None = None,
    generator: str | Mapping[str, Any] | None = None,
    discriminator: str | Mapping[str, Any] | None = None,
    features: str | Mapping[str, Any] | None = None,
    augmentation: str | Mapping[str, Any] | None = None,
    objective: str | Mapping[str, Any] | None = None,
    penalty: str | Mapping[str, Any] | None = None,
    images: int | None = None,
    epochs: float | None = None,
    time_limit: float | None = None,
    batch_size: int | None = None,
    lr: float | None = None,
    seed: int | None = None,
    mixed_precision: str | None = None,
    settings: Mapping[str, Any] | None = None,
    resume: str | os.PathLike[str] | None = None,
    callbacks: Callback | Sequence[Callback] = (),
    report_to: Sequence[str] = (),
    progress_bar: bool = True,
    handle_signals: bool = False,
    tune_malloc: bool = False,
) -> Run:
    """Train a stage, or resume a training, as ``stackflower train`` does.

    It runs in a notebook, and on several processes in a script that ``accelerate launch`` starts. The standard streams, signal handlers,
    environment, random state and memory allocator of the process stay as they are, unless `handle_signals` or `tune_malloc` is set.
    Messages go to the logger ``stackflower``.

    Args:
        recipe: name of a recipe, or a TOML file. Default: "quickstart"; "photographs" for other data, where the extra ``features`` is
            installed; for a later stage, the recipe of `below`.
        data: name of a data set, path, pattern of shards, ``hf://owner/name``, or a dict with its name and options. Default:
            "synthetic-flowers".
        out: folder of the run. Default: ``runs/RECIPE-N``.
        stage: stage to train. Default: 1.
        below: trained run of the previous stage.
        text: text encoder: a name, the output of ``train-text``, a Hugging Face model, or a dict with name and options.
        conditioning: conditioning on the text, a name or a dict ``{"name": …, option: …}``.
        generator: generator, a name or a dict.
        discriminator: discriminator, a name or a dict. It comes with its default objective.
        features: pretrained network of the discriminator, a name or a dict.
        augmentation: augmentation of what the discriminator sees, a name or a dict.
        objective: adversarial loss, a name or a dict.
        penalty: regulariser to add, a name or a dict of names to options: ``{"r1": {"weight": 1}}``. "none" removes the recipe's.
        images: number of images to train on.
        epochs: number of passes over the data.
        time_limit: seconds. Alone it sets the length of the training; with `images` or `epochs` the training stops then.
        batch_size: total batch size over all processes.
        lr: learning rate of generator and discriminator.
        seed: random seed. Default: 0.
        mixed_precision: "auto", "no", "bf16" or "fp16". Default: "auto".
        settings: any other setting by its dotted name: ``{"generator.channels": 96}``.
        resume: run to resume, or "latest". Length and outputs may change, nothing else.
        callbacks: one or several `Callback`.
        report_to: trackers: "tensorboard", "wandb", "mlflow".
        progress_bar: show progress bars on stderr.
        handle_signals: save a checkpoint and stop on SIGINT and SIGTERM (main thread only).
        tune_malloc: let glibc keep freed memory, which speeds up training on a CPU by about a fifth.

    Returns:
        The run. `Pipeline.from_run` and `evaluate` take it as they take its path.

    Raises:
        ConfigError: a list of everything that is wrong with the configuration.
        DataError: the data can't be used as they are.
        RunError: a run folder can't be used as it is.
        TrainingFailed: a loss stayed non-finite, or a checkpoint could not be written.

    Example:
        >>> import stackflower as sf
        >>> run = sf.train("quickstart", images=20_000, out="runs/flowers")  # doctest: +SKIP
        >>> sf.Pipeline.from_run(run)("a red flower", seed=0)[0].save("red.png")  # doctest: +SKIP
    """
    named = {
        "conditioning": conditioning,
        "generator": generator,
        "discriminator": discriminator,
        "features": features,
        "augmentation": augmentation,
        "objective": objective,
    }
    penalties = {penalty: {}} if isinstance(penalty, str) else penalty
    parts: dict[str, Any] = {
        **{kind: part if part is None or isinstance(part, str) else dict(part) for kind, part in named.items()},
        "data": data if data is None or isinstance(data, Mapping) else source_part(os.fspath(data)),
        "text": text if text is None or isinstance(text, Mapping) else encoder_part(text),
        "penalties": penalties,
        "seed": seed,
        "mixed_precision": mixed_precision,
        "train.images": images,
        "train.epochs": epochs,
        "train.batch_size": batch_size,
        "optimizer.generator.lr": lr,
        "optimizer.discriminator.lr": lr,
    }
    request = TrainingRequest(
        stage=stage,
        recipe=recipe,
        parts={name: value for name, value in parts.items() if value is not None},
        settings=settings or {},
        out=None if out is None else os.fspath(out),
        below=None if below is None else os.fspath(below),
        resume=None if resume is None else os.fspath(resume),
        time_limit=time_limit,
        report_to=tuple(report_to),
    )
    with progress_bars(progress_bar):
        return launch(request, callbacks, handle_signals=handle_signals, tune_malloc=tune_malloc).run


@dataclass(frozen=True)
class Outcome:
    """How a training ended.

    Args:
        run: folder of the run.
        images: number of images seen.
        stopped: why it stopped early; None: it did not.
        signal: number of the signal that stopped it.
        caption: a caption of the data, to try the run with.
        is_main: whether this is the main process.
    """

    run: Run
    images: int
    stopped: str | None
    signal: int | None
    caption: str
    is_main: bool


def launch(
    request: TrainingRequest,
    callbacks: Callback | Sequence[Callback] = (),
    *,
    handle_signals: bool = False,
    tune_malloc: bool = False,
) -> Outcome:
    """Train or resume what `request` asks for; the other parameters are those of `train`."""
    config, run, reason = request.resolve()
    precision = devices.resolve_precision(config.mixed_precision)
    main = devices.process_state().is_main_process
    if main:
        logger.info("%s %s.", reason, devices.describe_device(precision))
    stop = Stop(handle_signals)
    with naming_lost_processes(run.path), host_unchanged(), progress_bars(main):
        return _run(config, run, request, stop, CallbackList(callbacks), tune_malloc)


@contextmanager
def host_unchanged() -> Iterator[None]:
    """Restore what a training changes in the process: environment, random state, Accelerate's state, CUDA's flags."""
    environment, used_before = dict(os.environ), is_initialized()
    cuda, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    flags = cuda.allow_tf32, cudnn.allow_tf32, cudnn.benchmark
    try:
        with torch.random.fork_rng():
            yield
    finally:
        if not used_before:  # the state of a program that uses Accelerate itself stays
            AcceleratorState._reset_state()  # so that the next training may have another precision
        cuda.allow_tf32, cudnn.allow_tf32, cudnn.benchmark = flags
        if dict(os.environ) != environment:
            os.environ.clear()
            os.environ.update(environment)


def dry_run(request: TrainingRequest) -> tuple[RunConfig, dict[str, str], Run]:
    """Resolve what `request` asks for without creating anything.

    Returns:
        The configuration, what the training will cost (label to value), and the folder that the run would have.
    """
    config, run, reason = request.resolve()
    logger.info("%s %s.", reason, devices.describe_device(devices.resolve_precision(config.mixed_precision)))
    check_trackers(request.report_to)
    if not request.resume:
        run.refuse_taken()
    source = build.build_source(config)
    encoder = build.build_encoder(config, _kept_text(config, run, bool(request.resume)))
    if isinstance(source, ShardStream):
        captions, epoch = list[str](), sum(source.count("train"))
    else:
        captions = [caption for captions_of_image in source.rows("train").captions for caption in captions_of_image]
        epoch = len(source.rows("train"))
    return config, plan(config, encoder, source, captions, epoch), run


def _run(
    config: RunConfig, run: Run, request: TrainingRequest, stop: Stop, callbacks: Callback, tune_malloc: bool
) -> Outcome:
    """Train. The order is a contract: everything that can be refused is refused before anything is written."""
    resume = bool(request.resume)
    accelerator = make_accelerator(config, request.report_to, str(run.path))
    main = accelerator.is_main_process
    encoder = build.build_encoder(config, _kept_text(config, run, resume), accelerator.device)
    source = build.build_source(config)
    features = build.build_features(config)
    stage, _ = build.build_networks(config, encoder.dim)  # what they refuse is reported before anything is written
    size = build.load_size(config, stage, source)
    timed = config.train.time_limit is not None and not resume
    stop.start(None if timed else request.time_limit)
    with ExitStack() as stack:
        if main and not resume:
            run.refuse_taken()
        elif main:
            stack.enter_context(run.lock())
        inputs = read_inputs(config, source, encoder, size, accelerator)
        scored = config.output.eval_every > 0
        scorer = TrainingScorer(config, source, stage.resolutions[-1], size, encoder) if scored else None
        stack.enter_context(stop.listening())  # until here there is nothing to save, and Ctrl-C ends at once
        record = RunRecord(
            stackflower=version("stackflower"),
            text_dim=encoder.dim,
            resolution=stage.resolutions[-1],
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
        if tune_malloc and accelerator.device.type == "cpu":
            keep_memory()
        trainer = make_trainer(config, run, record, inputs, accelerator, request.began, scorer, callbacks)
        if resume:
            _restore(trainer, run)
        if main:
            run.update(record)
        stopped = trainer.train(stop)
        accelerator.end_training()
        return Outcome(run, trainer.images, stopped, stop.signal, inputs.grid(1)[0][0], main)


def _known_length(config: RunConfig, run: Run) -> list[tuple[int, float, int]]:
    """Return the estimates of a time-limited run's length, which a resumed run repeats."""
    return run.record().length if config.train.time_limit is not None else []


def _kept_text(config: RunConfig, run: Run, resume: bool) -> Path | None:
    """Return the folder that already holds the text encoder: that of the run to resume, or of the previous stage."""
    if resume:
        return run.text_folder
    return None if config.below is None else Run(config.below.run).text_folder


def _save_encoder(encoder: TextEncoder, run: Run) -> None:
    try:
        encoder.save(run.text_folder)
    except (OSError, SafetensorError) as error:
        raise RunError(
            f"{run.text_folder} can't be written: {error}. Free some disk space, or choose another `out`."
        ) from error


def _restore(trainer: Trainer, run: Run) -> None:
    """Restore the last complete checkpoint. RunError where the run has a model and no checkpoint."""
    complete = run.complete_checkpoints()
    if complete:
        trainer.state.restore(complete[-1])
        sentence = f"Resuming at {trainer.images:,} images."
    elif run.weights_file.exists():
        raise RunError(
            f"{run} has a trained model and no checkpoint ({run.checkpoints} is empty or missing), so it can't be resumed: training "
            "from scratch would overwrite the model. `stackflower sample` still works with it; train a new run with another `out`."
        )
    else:
        sentence = "No complete checkpoint found; starting from scratch."
    if trainer.accelerator.is_main_process:
        logger.info(sentence)

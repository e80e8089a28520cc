"""Launch a training: `train` for the Python API, `launch` and `dry_run` for a `TrainingRequest`."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from accelerate.state import AcceleratorState, is_initialized

from stackflower import build, registry
from stackflower.config.schema import RunConfig
from stackflower.data.opening import source_part
from stackflower.data.sources.stream import ShardStream
from stackflower.errors import ConfigError
from stackflower.models import hub
from stackflower.pipeline import Pipeline
from stackflower.runs.folder import Run
from stackflower.runs.trained_text import find_text_encoder
from stackflower.training.accelerator import check_trackers
from stackflower.training.callbacks import Callback, CallbackList
from stackflower.training.cost import plan
from stackflower.training.request import TrainingRequest
from stackflower.training.session import Outcome, check_start, find_text_folder, run_training
from stackflower.training.stopping import Stop, naming_lost_processes
from stackflower.utils import devices
from stackflower.utils.progress import progress_bars
from stackflower.utils.threads import describe_threads, threads_unchanged

logger = logging.getLogger(__name__)


def train(
    recipe: str | None = None,
    *,
    data: str | os.PathLike[str] | Mapping[str, Any] | None = None,
    out: str | os.PathLike[str] | None = None,
    stage: int | None = None,
    below: str | os.PathLike[str] | None = None,
    start_from: str | os.PathLike[str] | None = None,
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
    threads: int | None = None,
    captions: Sequence[str] | None = None,
    settings: Mapping[str, Any] | None = None,
    resume: str | os.PathLike[str] | None = None,
    callbacks: Callback | Sequence[Callback] = (),
    report_to: Sequence[str] = (),
    push_to_hub: str | None = None,
    progress_bar: bool = True,
    handle_signals: bool = False,
    tune_malloc: bool = False,
) -> Run:
    """Train a stage, or resume a training, as ``stackflower train`` does.

    It runs in a notebook, and on several processes in a script that ``accelerate launch`` starts. The standard streams,
    signal handlers, environment, memory allocator, and torch's random state and number of threads stay as they are,
    unless `handle_signals` or `tune_malloc` is set. Messages go to the logger ``stackflower``.

    Args:
        recipe: name of a recipe, or a TOML file. Default: "quickstart"; "photographs" for other data, where the extra
            ``features`` is installed; for a later stage, the recipe of `below`.
        data: name of a data set, path, pattern of shards, ``hf://owner/name``, or a dict with its name and options.
            Default: "synthetic-flowers".
        out: folder of the run. Default: ``runs/RECIPE-N``.
        stage: stage to train. Default: 1.
        below: trained run of the previous stage.
        start_from: model to start from, to fine-tune it: a run, or as of `Pipeline.from_pretrained`. Its recipe, text
            encoder, conditioning and generator are the defaults. The discriminator starts from new weights.
        text: text encoder: a name, the output of ``train-text``, a Hugging Face model, or a dict with name and
            options.
        conditioning: conditioning on the text, a name or a dict ``{"name": …, option: …}``.
        generator: generator, a name or a dict.
        discriminator: discriminator, a name or a dict. It comes with its default objective.
        features: pretrained network of the discriminator, a name or a dict.
        augmentation: augmentation of what the discriminator sees, a name or a dict.
        objective: adversarial loss, a name or a dict.
        penalty: regulariser to add, a name or a dict of names to options: ``{"r1": {"weight": 1}}``. "none" removes the
            recipe's.
        images: number of images to train on.
        epochs: number of passes over the data.
        time_limit: seconds. Alone it sets the length of the training; with `images` or `epochs` the training stops
            then.
        batch_size: total batch size over all processes.
        lr: learning rate of generator and discriminator.
        seed: random seed. Default: 0.
        mixed_precision: "auto", "no", "bf16" or "fp16". Default: "auto".
        threads: number of threads on a CPU. Default: the environment variable ``OMP_NUM_THREADS``; otherwise the
            fastest number, which is measured during the training. Weights are reproducible bit for bit only with a
            fixed number.
        captions: captions to add to the sample grids.
        settings: any other setting by its dotted name: ``{"generator.channels": 96}``.
        resume: run to resume, or "latest". Length and outputs may change, nothing else.
        callbacks: one or several `Callback`.
        report_to: trackers: "tensorboard", "wandb", "mlflow".
        push_to_hub: id on the Hugging Face Hub, OWNER/NAME, to which the model is uploaded after the training.
        progress_bar: show progress bars on stderr.
        handle_signals: save a checkpoint and stop on SIGINT, SIGTERM, SIGHUP, SIGUSR1, SIGUSR2 and SIGXCPU (main thread
            only).
        tune_malloc: let glibc keep freed memory, which speeds up training on a CPU by about a fifth.

    Returns:
        The run. `Pipeline.from_run` and `evaluate` take it as they take its path.

    Raises:
        ConfigError: a list of everything that is wrong with the configuration.
        DataError: the data can't be used as they are.
        RunError: a run folder can't be used as it is.
        ModelError: the model to start from, or the Hub, can't be used.
        TrainingFailed: a loss stayed non-finite, or a checkpoint could not be written.

    Example:
        >>> import stackflower as sf
        >>> run = sf.train("quickstart", images=20_000, out="runs/flowers")  # doctest: +SKIP
        >>> sf.Pipeline.from_run(run)("a red flower", seed=0)[0].save("red.png")  # doctest: +SKIP
    """
    named: dict[str, Any] = {
        "data": data if data is None or isinstance(data, Mapping) else source_part(os.fspath(data)),
        "text": text if text is None or isinstance(text, Mapping) else find_text_encoder(text),
        "start_from": None if start_from is None else os.fspath(start_from),
        "conditioning": conditioning,
        "generator": generator,
        "discriminator": discriminator,
        "features": features,
        "augmentation": augmentation,
        "objective": objective,
        "penalties": {penalty: {}} if isinstance(penalty, str) else penalty,
        "seed": seed,
        "mixed_precision": mixed_precision,
        "train.images": images,
        "train.epochs": epochs,
        "train.batch_size": batch_size,
        "train.threads": threads,
        "output.captions": None if captions is None else list(captions),
        "optimizer.generator.lr": lr,
        "optimizer.discriminator.lr": lr,
    }
    given = {name: value for name, value in named.items() if value is not None}
    _check_parts(given)
    request = TrainingRequest(
        stage=stage,
        recipe=recipe,
        parts={name: dict(value) if isinstance(value, Mapping) else value for name, value in given.items()},
        settings=settings or {},
        out=None if out is None else os.fspath(out),
        below=None if below is None else os.fspath(below),
        resume=None if resume is None else os.fspath(resume),
        time_limit=time_limit,
        report_to=tuple(report_to),
        push_to_hub=push_to_hub,
    )
    with progress_bars(progress_bar):
        return launch(request, callbacks, handle_signals=handle_signals, tune_malloc=tune_malloc).run


def _check_parts(given: Mapping[str, Any]) -> None:
    """Raise ConfigError for a part that is neither a name nor a dict with one, or penalties that are not a dict."""
    problems = []
    for kind, value in given.items():
        if kind == "penalties" and not isinstance(value, Mapping):
            problems.append(f"`penalty` = {value!r}: give a name, or a dict of names to options.")
        name = value.get("name") if isinstance(value, Mapping) else value
        if kind in registry.KINDS and not isinstance(name, str):
            problems.append(f"`{kind}` = {value!r}: give a name, or a dict with a name and options.")
    if problems:
        raise ConfigError(problems)


def launch(
    request: TrainingRequest,
    callbacks: Callback | Sequence[Callback] = (),
    *,
    handle_signals: bool = False,
    tune_malloc: bool = False,
) -> Outcome:
    """Train a new run, or resume one.

    Args:
        request: what to train.
        callbacks: one or several `Callback`.
        handle_signals: save a checkpoint and stop on the signals in `stopping.SIGNALS` (main thread only).
        tune_malloc: let glibc keep freed memory.

    Raises:
        StackflowerError: as in `train`.
    """
    config, run, reason = request.resolve()
    precision = devices.resolve_precision(config.mixed_precision)
    main = devices.get_process_state().is_main_process
    if main:
        logger.info("%s %s.", reason, devices.describe_device(precision, describe_threads(config.train.threads)))
    if main and request.push_to_hub is not None:
        hub.check_access(request.push_to_hub)  # before hours of training rather than after
    stop = Stop(handle_signals)
    with naming_lost_processes(run.path), host_unchanged(), progress_bars(main):
        outcome = run_training(config, run, request, stop, CallbackList(callbacks), tune_malloc)
    if main and request.push_to_hub is not None and outcome.signal is None:
        address = Pipeline.from_run(run).push_to_hub(request.push_to_hub)
        logger.info("Uploaded to %s.", address)
    return outcome


@contextmanager
def host_unchanged() -> Iterator[None]:
    """Restore what a training changes: environment, random state, threads, Accelerate's state and CUDA flags."""
    environment, used_before = dict(os.environ), is_initialized()
    cuda, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    flags = cuda.allow_tf32, cudnn.allow_tf32, cudnn.benchmark
    try:
        with torch.random.fork_rng(), threads_unchanged():
            yield
    finally:
        if not used_before:  # a program that uses Accelerate itself keeps its state
            AcceleratorState._reset_state()  # the next training may use another precision
        cuda.allow_tf32, cudnn.allow_tf32, cudnn.benchmark = flags
        if dict(os.environ) != environment:
            os.environ.clear()
            os.environ.update(environment)


def dry_run(request: TrainingRequest) -> tuple[RunConfig, dict[str, str], Run]:
    """Resolve a request and estimate the cost of the training, without creating anything.

    Args:
        request: what to train.

    Returns:
        The configuration, the cost as texts by label, and the run that the training would create or resume.

    Raises:
        StackflowerError: the training would be refused.
    """
    config, run, reason = request.resolve()
    precision, threads = devices.resolve_precision(config.mixed_precision), describe_threads(config.train.threads)
    logger.info("%s %s.", reason, devices.describe_device(precision, threads))
    check_trackers(request.report_to)
    if not request.resume:
        run.refuse_taken()
    source = build.build_source(config)
    encoder = build.build_encoder(config, find_text_folder(config, run, bool(request.resume)))
    if encoder.learns is False:  # the networks of another one depend on its vocabulary
        check_start(config, build.build_networks(config, encoder.dim, encoder.word_dim)[0], bool(request.resume))
    if isinstance(source, ShardStream):
        captions, epoch = list[str](), sum(source.count("train"))
    else:
        captions = [caption for captions_of_image in source.rows("train").captions for caption in captions_of_image]
        epoch = len(source.rows("train"))
    return config, plan(config, encoder, source, captions, epoch), run

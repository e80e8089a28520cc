"""A training run, from the resolved configuration to the last checkpoint."""

from __future__ import annotations

import logging
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from accelerate import Accelerator
from safetensors import SafetensorError

from stackflower import build
from stackflower.config.schema import RunConfig
from stackflower.data.source import Source
from stackflower.errors import DataError, RunError
from stackflower.evaluation.during_training import TrainingScorer
from stackflower.features.base import Features
from stackflower.models.start import find_start_text, load_start
from stackflower.runs.folder import Run
from stackflower.runs.previous_stage import keep_weights
from stackflower.runs.record import RunRecord
from stackflower.stages.base import Stage
from stackflower.text.base import TextEncoder
from stackflower.text.checks import clean_captions
from stackflower.training.accelerator import keep_memory, make_accelerator
from stackflower.training.callbacks import Callback
from stackflower.training.request import TrainingRequest
from stackflower.training.setup import Inputs, make_trainer, read_inputs
from stackflower.training.stopping import Stop
from stackflower.training.trainer import Trainer

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outcome:
    """Outcome of a training.

    Args:
        run: the run.
        images: number of images seen.
        stopped: why the training stopped early, if it did.
        signal: number of the signal that stopped it, if one did.
        caption: caption from the data, for an example of `stackflower sample`.
        is_main: whether this is the main process.
    """

    run: Run
    images: int
    stopped: str | None
    signal: int | None
    caption: str
    is_main: bool


@dataclass(frozen=True)
class _Setup:
    """Components of a training that are built before the data are read."""

    accelerator: Accelerator
    encoder: TextEncoder
    source: Source
    features: Features | None
    resolution: int  # of the generated images, in pixels
    size: int  # height and width of the prepared images, in pixels
    words: bool  # whether a network or penalty uses the words of captions
    resume: bool

    @property
    def is_main(self) -> bool:
        """Whether this is the main process, the only one that writes."""
        return bool(self.accelerator.is_main_process)


def run_training(
    config: RunConfig, run: Run, request: TrainingRequest, stop: Stop, callbacks: Callback, tune_malloc: bool
) -> Outcome:
    """Run a training.

    The order of the steps matters, so that errors are raised before anything is written:

    1. Build the accelerator, text encoder, data set and networks. Mistakes are reported early and leave no files.
    2. Start the clock of a time limit that stops a training of set length. A limit that sets the length has its own
       clock.
    3. Check that the folder of a new run is free, or lock the folder of a resumed run.
    4. Read the data and the scorer's real images. This can take minutes, and raises errors for unusable data.
    5. Install signal handlers. Before this step, there is nothing to save, and Ctrl-C exits at once.
    6. Create and lock a new run, or compare a resumed run with its record. Other processes wait for this step.
    7. Build the trainer and restore the last checkpoint. Update the record of the run only if both succeed.
    8. Train.

    Args:
        config: configuration of the run.
        run: the run.
        request: request for the training.
        stop: requests to end the training early.
        callbacks: callbacks of the training.
        tune_malloc: whether glibc should keep freed memory, on a CPU.

    Raises:
        StackflowerError: the training can't start, or failed.
    """
    setup = _build_setup(config, run, request)
    timed = config.train.time_limit is not None and not request.resume
    stop.start(None if timed else request.time_limit)
    with ExitStack() as stack:
        _claim_folder(setup, run, stack)
        inputs = read_inputs(config, setup.source, setup.encoder, setup.size, setup.accelerator, setup.words)
        scorer = _make_scorer(config, setup)
        stack.enter_context(stop.listening())
        record = _make_record(config, run, setup, inputs)
        _open_run(config, run, record, setup, stack)
        setup.accelerator.wait_for_everyone()
        _start_process(setup, request, tune_malloc)
        trainer = make_trainer(
            config, run, record, inputs, setup.encoder, setup.accelerator, request.began, scorer, callbacks
        )
        if setup.resume:
            _restore(trainer, run)
        if setup.is_main:
            run.update(record)
        stopped = trainer.train(stop)
        setup.accelerator.end_training()
        return Outcome(run, trainer.images, stopped, stop.signal, inputs.select_grid_captions(1)[0][0], setup.is_main)


def _build_setup(config: RunConfig, run: Run, request: TrainingRequest) -> _Setup:
    """Build the components of a training, before anything is read or written."""
    resume = bool(request.resume)
    accelerator = make_accelerator(config, request.report_to, str(run.path))
    encoder = build.build_encoder(config, find_text_folder(config, run, resume), accelerator.device)
    source = build.build_source(config)
    if not source.is_captioned:
        raise DataError(source.explain_no_captions())
    features = build.build_features(config)
    # only to detect mistakes early; the trainer builds its own
    stage, adversaries = build.build_networks(config, encoder.dim, encoder.word_dim)
    check_start(config, stage, resume)
    size = build.compute_load_size(config, stage, source)
    words = build.use_words(stage, adversaries)
    return _Setup(accelerator, encoder, source, features, stage.resolutions[-1], size, words, resume)


def check_start(config: RunConfig, stage: Stage, resume: bool) -> None:
    """Check the captions of the sample grids, and that a new run can start from the weights that it names.

    Args:
        config: configuration of the run.
        stage: stage with new weights, into which those weights are loaded.
        resume: whether the run is resumed.

    Raises:
        ConfigError: a caption can't be used, or sizes of the networks differ.
    """
    if config.output.captions:
        clean_captions(config.output.captions)
    if config.start_from is not None and not resume:
        load_start(config.start_from, stage)


def _claim_folder(setup: _Setup, run: Run, stack: ExitStack) -> None:
    """Check that the folder of a new run is free, or lock the folder of a resumed run until `stack` is closed."""
    if setup.is_main and setup.resume:
        stack.enter_context(run.lock())
    elif setup.is_main:
        run.refuse_taken()


def _make_scorer(config: RunConfig, setup: _Setup) -> TrainingScorer | None:
    """Build the scorer of the networks in training; None if the configuration asks for no scores."""
    if config.output.eval_every <= 0:
        return None
    return TrainingScorer(config, setup.source, setup.resolution, setup.size, setup.encoder)


def _make_record(config: RunConfig, run: Run, setup: _Setup, inputs: Inputs) -> RunRecord:
    """Build the record of the run for ``config.json``."""
    return RunRecord(
        stackflower=version("stackflower"),
        text_dim=setup.encoder.dim,
        resolution=setup.resolution,
        load_size=setup.size,
        data_key=inputs.key,
        encoder=setup.encoder.fingerprint(),
        features=None if setup.features is None else setup.features.describe(),
        precision=setup.accelerator.mixed_precision,
        length=_read_length(config, run) if setup.resume else [],
        run=config.to_dict(),
        threads=run.read_record().threads if setup.resume else [],
        word_dim=setup.encoder.word_dim,
    )


def _open_run(config: RunConfig, run: Run, record: RunRecord, setup: _Setup, stack: ExitStack) -> None:
    """Create and lock the folder of a new run, or check that a resumed run has the same record."""
    if setup.resume:
        run.read_record().check_unchanged(run, record)
    elif setup.is_main:
        stack.enter_context(run.lock())
        run.create(record)
        _save_encoder(setup.encoder, run)
    if setup.is_main:
        keep_weights(config, run)


def _start_process(setup: _Setup, request: TrainingRequest, tune_malloc: bool) -> None:
    """Start the trackers, and configure the memory allocator of this process if requested."""
    if request.report_to:
        setup.accelerator.init_trackers("stackflower", config=None)
    if tune_malloc and setup.accelerator.device.type == "cpu":
        keep_memory()


def _read_length(config: RunConfig, run: Run) -> list[tuple[int, float, int]]:
    """Read the estimated lengths of a time-limited run, which a resumed run repeats."""
    return run.read_record().length if config.train.time_limit is not None else []


def find_text_folder(config: RunConfig, run: Run, resume: bool) -> Path | None:
    """Return the folder of the text encoder to restore; None for a new run that starts from nothing.

    It belongs to the run to resume, to the previous stage, or to the model to start from.

    Args:
        config: configuration of the run.
        run: the run.
        resume: whether the run is resumed.
    """
    if resume:
        return run.text_folder
    return find_start_text(config) if config.below is None else Run(config.below.run).text_folder


def _save_encoder(encoder: TextEncoder, run: Run) -> None:
    """Save the text encoder in the run's folder."""
    try:
        encoder.save(run.text_folder)
    except (OSError, SafetensorError) as error:
        raise RunError(
            f"{run.text_folder} can't be written: {error}. Free some disk space, or choose another `out`."
        ) from error


def _restore(trainer: Trainer, run: Run) -> None:
    """Restore the last complete checkpoint, if any; raise RunError if the training would overwrite a trained model."""
    complete = run.list_checkpoints()
    if complete:
        trainer.state.restore(complete[-1])
        sentence = f"Resuming at {trainer.images:,} images."
    elif run.weights_file.exists():
        raise RunError(
            f"{run} has a trained model but no complete checkpoint in {run.checkpoints}, so it can't be resumed: "
            "starting from scratch would overwrite the model. Use `stackflower sample` to generate images with it, or "
            "train a new run with another `out`."
        )
    else:
        sentence = "No complete checkpoint found; starting from scratch."
    if trainer.accelerator.is_main_process:
        logger.info(sentence)

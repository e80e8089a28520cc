"""Build a trainer from a configuration and the folder of a run."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from stackflower import build
from stackflower.config.schema import RunConfig
from stackflower.data.prepared import Prepared, prepare
from stackflower.data.source import Source
from stackflower.data.sources.stream import ShardStream
from stackflower.errors import ConfigError
from stackflower.runs.folder import Run
from stackflower.runs.record import RunRecord
from stackflower.text.base import TextEncoder
from stackflower.text.cache import embed
from stackflower.text.checks import clean_captions, report_captions, report_given_captions
from stackflower.text.learned import LearnedEncoder
from stackflower.text.words import WordLookup, build_word_lookup
from stackflower.training.batches.assembly import Batches
from stackflower.training.batches.batch import Drawing
from stackflower.training.batches.decoding import CaptionDraws, Decoder
from stackflower.training.batches.order import StreamOrder
from stackflower.training.batches.prepared import PreparedBatches
from stackflower.training.batches.streamed import EmbeddingCache, StreamedBatches, WordCache
from stackflower.training.callbacks import Callback
from stackflower.training.logger import RunLogger
from stackflower.training.networks import LearnedText, Networks
from stackflower.training.schedules import Length, Pace
from stackflower.training.trainer import Scorer, Trainer
from stackflower.utils.launcher import count_local_processes
from stackflower.utils.threads import Schedule, ThreadChooser, make_chooser

logger = logging.getLogger(__name__)

CHECKED_SAMPLES = 1_000  # of a stream, whose captions are checked before the training


class Inputs(ABC):
    """Training data: images with embeddings of their captions.

    Attributes:
        key: hash of the training split, which is the same for a copy of the data.
        epoch: number of images per pass.
        text: text encoder that is trained with the GAN, if any.
    """

    key: str
    epoch: int
    text: LearnedText | None = None

    @abstractmethod
    def build_batches(self, drawing: Drawing) -> Batches:
        """Build the training batches.

        Args:
            drawing: how images, captions and noise are drawn.
        """

    @abstractmethod
    def select_grid_captions(self, rows: int = 8) -> tuple[list[str], Tensor]:
        """Return the captions of the sample grid and their embeddings ``(rows, T)``.

        Args:
            rows: number of captions; small data sets have fewer.
        """


@dataclass
class PreparedInputs(Inputs):
    """A prepared split with the embeddings of its captions, or their tokens if the text encoder is trained.

    Args:
        data: prepared split.
        table: embeddings ``(captions, T)``, float32, or tokens ``(captions, L)``, int64.
        device: device of the batches.
        text: text encoder that is trained with the GAN, if any.
        words: lookup of the words of the captions; None if no part of the run uses words.
    """

    data: Prepared
    table: Tensor
    device: torch.device
    text: LearnedText | None = None
    words: WordLookup | None = None

    def __post_init__(self) -> None:
        self.key, self.epoch = self.data.digest, len(self.data.rows)

    def build_batches(self, drawing: Drawing) -> PreparedBatches:
        embed = self.table.__getitem__ if self.text is None else self.text.embed
        return PreparedBatches(self.data, embed, drawing, self.device, self.words)

    def select_grid_captions(self, rows: int = 8) -> tuple[list[str], Tensor]:
        """Return the first caption of each of evenly spaced images, and their embeddings."""
        counts = torch.tensor([len(captions) for captions in self.data.captions])
        offsets = counts.cumsum(0) - counts
        chosen = offsets[torch.linspace(0, len(counts) - 1, min(rows, len(counts))).long()].tolist()
        captions = self.data.flatten_captions()
        return [captions[row] for row in chosen], self.table[chosen]


@dataclass
class StreamedInputs(Inputs):
    """Shards that are streamed during training.

    Args:
        source: shards.
        encoder: frozen text encoder.
        size: height and width of the images, in pixels.
        batch_size: total batch size over all processes.
        accelerator: device and processes.
    """

    source: ShardStream
    encoder: TextEncoder
    size: int
    batch_size: int
    accelerator: Accelerator

    def __post_init__(self) -> None:
        self.counts = self.source.count("train")
        self.key, self.epoch = self.source.stream_key("train"), sum(self.counts)
        self.embed = EmbeddingCache(self.encoder, self.accelerator.device)

    def build_batches(self, drawing: Drawing) -> StreamedBatches:
        order = StreamOrder(self.counts, drawing.seed, self.batch_size, self.source.window)
        decoder = Decoder(
            self.source.reader("train"),
            order,
            CaptionDraws(drawing.seed, drawing.averaged, self.encoder if self.encoder.on_host else None, drawing.words),
            self.size,
            self.source.workers,
            self.source.skip_bad,
            count_local_processes(self.accelerator.num_processes),
        )
        reported = set[str]()

        def notify(sentence: str) -> None:
            if sentence not in reported:
                reported.add(sentence)
                logger.warning("%s It is replaced by the next image of the shard.", sentence)

        words = WordCache(self.encoder, self.accelerator.device)
        return StreamedBatches(decoder, self.embed, drawing, self.accelerator.device, notify, words)

    def select_grid_captions(self, rows: int = 8) -> tuple[list[str], Tensor]:
        """Return the first caption of each of evenly spaced images of the first shard, and their embeddings."""
        captions = [texts[0] for texts in self.read_captions(rows)]
        return captions, self.embed(captions)

    def read_captions(self, rows: int) -> list[list[str]]:
        """Return the captions of evenly spaced images of the first shard.

        Args:
            rows: number of images; a small shard has fewer.
        """
        reader, shard = self.source.reader("train"), next(number for number, count in enumerate(self.counts) if count)
        places = dict.fromkeys(row * self.counts[shard] // rows for row in range(rows))
        return [reader.row(shard, place)["text"] for place in places]


def read_inputs(
    config: RunConfig, source: Source, encoder: TextEncoder, size: int, accelerator: Accelerator, words: bool = False
) -> Inputs:
    """Prepare or index the training data, in the main process first; the others read its results from the cache.

    Args:
        config: the run's configuration.
        source: data set.
        encoder: text encoder.
        size: height and width of the images, in pixels.
        accelerator: device and processes.
        words: whether a part of the run uses the words of captions.
    """
    main = accelerator.is_main_process
    with accelerator.main_process_first():
        if isinstance(source, ShardStream):
            return _read_stream(config, source, encoder, size, accelerator)
        if main:
            logger.info(source.describe())
            for warning in source.warnings("train"):
                logger.warning(warning)
        data = prepare(source, "train", size)
        captions = data.flatten_captions()
        build.fit_encoder(config, encoder, captions)
        embeddings = cache(lambda: embed(captions, encoder))
        if main:
            report_captions(encoder, data.captions, embeddings)
        lookup = build_word_lookup(encoder, captions, accelerator.device) if words else None
        if not (isinstance(encoder, LearnedEncoder) and encoder.learns):
            return PreparedInputs(data, embeddings().to(accelerator.device), accelerator.device, words=lookup)
        tokens = encoder.tokenise(captions).to(accelerator.device)
    encoder.to(accelerator.device)
    return PreparedInputs(data, tokens, accelerator.device, LearnedText(encoder, tokens), lookup)


def _read_stream(
    config: RunConfig,
    source: ShardStream,
    encoder: TextEncoder,
    size: int,
    accelerator: Accelerator,
) -> StreamedInputs:
    """Index the shards and fit the text encoder; raise ConfigError if the encoder needs all captions."""
    if encoder.reads_all:
        raise ConfigError(
            f"The text encoder {config.text.name} needs all captions of the data before training, and a stream does "
            "not provide them. Prepare the shards with `data.name=shards`, or use `text=ngram`."
        )
    source.count("train")
    if accelerator.is_main_process:
        logger.info(source.describe())
        for warning in source.stream_warnings():
            logger.warning(warning)
    encoder.fit(())
    encoder.to(accelerator.device)
    inputs = StreamedInputs(source, encoder, size, config.train.batch_size, accelerator)
    if accelerator.is_main_process:
        report_captions(encoder, inputs.read_captions(CHECKED_SAMPLES))
    return inputs


def make_trainer(
    config: RunConfig,
    run: Run,
    record: RunRecord,
    inputs: Inputs,
    encoder: TextEncoder,
    accelerator: Accelerator,
    began: float,
    scorer: Scorer | None = None,
    callbacks: Callback | None = None,
) -> Trainer:
    """Build the trainer of a run.

    Args:
        config: the run's configuration.
        run: the run.
        record: contents of its ``config.json``.
        inputs: training data.
        encoder: text encoder.
        accelerator: device, precision and processes.
        began: start of the time limit, by `time.monotonic`.
        scorer: scores the networks during training; None for no scores.
        callbacks: callbacks of the training.
    """
    networks = Networks(
        config,
        accelerator,
        inputs.build_batches,
        record.text_dim,
        inputs.text,
        run.previous_weights_files(config.stage),
        starts=not run.list_checkpoints(),
        word_dim=record.word_dim,
    )
    grid_captions, embeddings = _choose_grid_captions(config, inputs, encoder)
    words = None
    if networks.stage.uses_words and inputs.text is None:
        words = encoder.embed_captions(grid_captions, words=True).words
    run_logger = RunLogger(run, accelerator, grid_captions, embeddings, config.seed, words)
    limit, train, pace = config.train.time_limit, config.train, None
    length = Length(record.length)
    if limit is None:
        length = Length.from_total(train.images or max(1, int((train.epochs or 0) * inputs.epoch)))
    elif not record.length:
        rarest = max(
            (p.every for adversary in networks.adversaries.values() for p in adversary.list_penalties()), default=1
        )
        output = config.output
        sparing = not (output.checkpoint_every or output.sample_every or output.eval_every)
        pace = Pace(began + limit, limit, train.batch_size * train.critic_steps, rarest, sparing)

    def save(**values: Any) -> None:
        nonlocal record
        record = replace(record, **values)
        if accelerator.is_main_process:
            run.update(record)

    threads = _make_thread_chooser(config, run, record, accelerator, lambda schedule: save(threads=schedule))
    return Trainer(
        config,
        run,
        networks,
        run_logger,
        length,
        pace,
        lambda length: save(length=length.knots),
        scorer,
        callbacks,
        threads,
    )


def _choose_grid_captions(config: RunConfig, inputs: Inputs, encoder: TextEncoder) -> tuple[list[str], Tensor]:
    """Return the captions of the sample grids and their embeddings: those of the user first, then those of the data."""
    captions, embeddings = inputs.select_grid_captions()
    if not config.output.captions:
        return captions, embeddings
    given = clean_captions(config.output.captions)
    report_given_captions(encoder, given)
    if inputs.text is None:  # otherwise the encoder is trained, and encodes the captions of each grid again
        embeddings = torch.cat([encoder(given).to(embeddings.device), embeddings])
    return [*given, *captions], embeddings


def _make_thread_chooser(
    config: RunConfig, run: Run, record: RunRecord, accelerator: Accelerator, save: Callable[[Schedule], None]
) -> ThreadChooser:
    """Make the chooser of the number of threads, which repeats what an interrupted run used after its checkpoint."""
    fixed = accelerator.device.type != "cpu" or accelerator.num_processes > 1 or config.train.compile
    interrupted = max((row["images"] for row in run.read_metrics()), default=0) if record.threads else 0

    def save_recent(schedule: Schedule) -> None:
        oldest = min(run.list_checkpoint_images(), default=0)
        past = [entry for entry in schedule if entry[0] <= oldest]
        save([*past[-1:], *schedule[len(past) :]])

    on_cpu = accelerator.device.type == "cpu"
    return make_chooser(config.train.threads, save_recent if on_cpu else None, record.threads, interrupted, fixed=fixed)

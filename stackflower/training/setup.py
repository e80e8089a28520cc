"""Make a trainer from a configuration and a run's folder."""

from __future__ import annotations

import logging
import os
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace

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
from stackflower.text.learned import LearnedEncoder
from stackflower.training.batches.assembly import Batches
from stackflower.training.batches.batch import Drawing
from stackflower.training.batches.decoding import CaptionDraws, Decoder
from stackflower.training.batches.order import StreamOrder
from stackflower.training.batches.prepared import PreparedBatches
from stackflower.training.batches.streamed import EmbeddingCache, StreamedBatches
from stackflower.training.callbacks import Callback
from stackflower.training.logger import RunLogger
from stackflower.training.networks import LearnedText, Networks
from stackflower.training.schedules import Length, Pace
from stackflower.training.trainer import Scorer, Trainer

logger = logging.getLogger(__name__)


class Inputs(ABC):
    """What a training reads."""

    key: str  # of the training split
    epoch: int  # images of a pass
    text: LearnedText | None = None  # the encoder that is trained too

    @abstractmethod
    def batches(self, drawing: Drawing) -> Batches:
        """Make the training batches."""

    @abstractmethod
    def grid(self, rows: int = 8) -> tuple[list[str], Tensor]:
        """Return the captions of the sample grid, and their embeddings (rows, T)."""


@dataclass
class PreparedInputs(Inputs):
    """A prepared split, and its captions' embeddings or, where the encoder is trained too, tokens."""

    data: Prepared
    table: Tensor  # (captions, T) float32, or (captions, L) int64
    device: torch.device
    text: LearnedText | None = None

    def __post_init__(self) -> None:
        self.key, self.epoch = self.data.key, len(self.data.rows)

    def batches(self, drawing: Drawing) -> PreparedBatches:
        embed = self.table.__getitem__ if self.text is None else self.text.embed
        return PreparedBatches(self.data, embed, drawing, self.device)

    def grid(self, rows: int = 8) -> tuple[list[str], Tensor]:
        """Return the first captions of evenly spaced images, and their embeddings."""
        counts = torch.tensor([len(captions) for captions in self.data.captions])
        offsets = counts.cumsum(0) - counts
        chosen = offsets[torch.linspace(0, len(counts) - 1, min(rows, len(counts))).long()].tolist()
        captions = self.data.flat_captions()
        return [captions[row] for row in chosen], self.table[chosen]


@dataclass
class StreamedInputs(Inputs):
    """Shards that are read as the training goes."""

    source: ShardStream
    encoder: TextEncoder
    size: int
    batch_size: int
    accelerator: Accelerator

    def __post_init__(self) -> None:
        self.counts = self.source.count("train")
        self.key, self.epoch = self.source.stream_key("train"), sum(self.counts)
        self.embed = EmbeddingCache(self.encoder, self.accelerator.device)

    def batches(self, drawing: Drawing) -> StreamedBatches:
        order = StreamOrder(self.counts, drawing.seed, self.batch_size, self.source.window)
        decoder = Decoder(
            self.source.reader("train"),
            order,
            CaptionDraws(drawing.seed, drawing.averaged, self.encoder if self.encoder.on_host else None),
            self.size,
            self.source.workers,
            self.source.skip_bad,
            int(os.environ.get("LOCAL_WORLD_SIZE", self.accelerator.num_processes)),
        )
        reported = set[str]()

        def notify(sentence: str) -> None:
            if sentence not in reported:
                reported.add(sentence)
                logger.warning("%s The next image of the shard replaces it.", sentence)

        return StreamedBatches(decoder, self.embed, drawing, self.accelerator.device, notify)

    def grid(self, rows: int = 8) -> tuple[list[str], Tensor]:
        """Return the first captions of evenly spaced samples of a shard, and their embeddings."""
        reader, shard = self.source.reader("train"), next(number for number, count in enumerate(self.counts) if count)
        places = dict.fromkeys(row * self.counts[shard] // rows for row in range(rows))
        captions = [reader.row(shard, place)["text"][0] for place in places]
        return captions, self.embed(captions)


def read_inputs(config: RunConfig, source: Source, encoder: TextEncoder, size: int, accelerator: Accelerator) -> Inputs:
    """Prepare or index the data in the main process; the others then find it in the cache."""
    main = accelerator.is_main_process
    with accelerator.main_process_first():
        if isinstance(source, ShardStream):
            return _read_stream(config, source, encoder, size, accelerator)
        if main:
            logger.info(source.describe())
            for warning in source.warnings("train"):
                logger.warning(warning)
        data = prepare(source, "train", size)
        captions = data.flat_captions()
        build.fit_encoder(config, encoder, captions)
        if not (isinstance(encoder, LearnedEncoder) and encoder.learns):
            return PreparedInputs(data, embed(captions, encoder).to(accelerator.device), accelerator.device)
        tokens = encoder.tokenise(captions).to(accelerator.device)
    encoder.to(accelerator.device)
    return PreparedInputs(data, tokens, accelerator.device, LearnedText(encoder, tokens))


def _read_stream(
    config: RunConfig,
    source: ShardStream,
    encoder: TextEncoder,
    size: int,
    accelerator: Accelerator,
) -> StreamedInputs:
    if encoder.reads_all:
        raise ConfigError(
            f"The text encoder {config.text.name} is made from all captions of the data, which a stream does not have "
            "at the start: prepare the shards first with `data.name=shards`, or use `text=ngram`."
        )
    source.count("train")
    if accelerator.is_main_process:
        logger.info(source.describe())
        for warning in source.stream_warnings():
            logger.warning(warning)
    encoder.fit(())
    encoder.to(accelerator.device)
    return StreamedInputs(source, encoder, size, config.train.batch_size, accelerator)


def make_trainer(
    config: RunConfig,
    run: Run,
    record: RunRecord,
    inputs: Inputs,
    accelerator: Accelerator,
    began: float,
    scorer: Scorer | None = None,
    callbacks: Callback | None = None,
) -> Trainer:
    """Make the trainer of a run.

    Args:
        config: the run's configuration.
        run: its folder.
        record: what its ``config.json`` holds.
        inputs: what it reads.
        accelerator: device, precision and processes.
        began: when its time limit started, by `time.monotonic`.
        scorer: scores its networks; None: no scores.
        callbacks: run while it trains.
    """
    networks = Networks(
        config,
        accelerator,
        inputs.batches,
        record.text_dim,
        inputs.text,
        run.previous_weights(config.stage),
    )
    captions, embeddings = inputs.grid()
    run_logger = RunLogger(run, accelerator, captions, embeddings, config.seed)
    limit, train, pace = config.train.time_limit, config.train, None
    length = Length(record.length)
    if limit is None:
        length = Length.fixed(train.images or max(1, int((train.epochs or 0) * inputs.epoch)))
    elif not record.length:
        rarest = max((p.every for one in networks.adversaries.values() for p in one.all_penalties()), default=1)
        output = config.output
        sparing = not (output.checkpoint_every or output.sample_every or output.eval_every)
        pace = Pace(began + limit, limit, train.batch_size * train.critic_steps, rarest, sparing)

    def save_length(length: Length) -> None:
        if accelerator.is_main_process:
            run.update(replace(record, length=length.knots))

    return Trainer(config, run, networks, run_logger, length, pace, save_length, scorer, callbacks)

"""From a configuration and a run's folder to a trainer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from accelerate import Accelerator
from torch import Tensor

from stackflower import build
from stackflower.config.schema import RunConfig
from stackflower.data.prepared import Prepared, prepare
from stackflower.data.source import Source
from stackflower.runs.folder import RunFolder
from stackflower.runs.record import RunRecord
from stackflower.text.base import TextEncoder
from stackflower.text.cache import embed
from stackflower.text.learned import LearnedEncoder
from stackflower.training.logger import RunLogger
from stackflower.training.networks import LearnedText, Networks
from stackflower.training.schedules import Length, Pace
from stackflower.training.trainer import Scorer, Trainer
from stackflower.utils.progress import bar, silent

Say = Callable[[str], None]


@dataclass
class Inputs:
    """What a training reads: the prepared split, and the captions' embeddings or, where the encoder is trained too, tokens."""

    data: Prepared
    table: Tensor  # (captions, T) float32, or (captions, L) int64
    text: LearnedText | None

    @property
    def embed(self) -> Callable[[Tensor], Tensor]:
        """From numbers of captions to embeddings."""
        return self.table.__getitem__ if self.text is None else self.text.embed

    def grid_rows(self, rows: int = 8) -> list[int]:
        """Numbers of captions for the sample grid: the first captions of evenly spaced images."""
        counts = torch.tensor([len(captions) for captions in self.data.captions])
        offsets = counts.cumsum(0) - counts
        chosen = torch.linspace(0, len(counts) - 1, min(rows, len(counts))).long()
        return offsets[chosen].tolist()


def read_inputs(
    config: RunConfig, source: Source, encoder: TextEncoder, size: int, accelerator: Accelerator, say: Say
) -> Inputs:
    """The first process prepares the data, the others then find it in the cache."""
    display = bar if accelerator.is_main_process else silent
    with accelerator.main_process_first():
        for warning in source.warnings("train") if accelerator.is_main_process else ():
            say(f"Warning: {warning}")
        data = prepare(source, "train", size, display)
        captions = data.flat_captions()
        build.fit_encoder(config, encoder, captions)
        if not (isinstance(encoder, LearnedEncoder) and encoder.learns):
            return Inputs(data, embed(captions, encoder, display).to(accelerator.device), None)
        tokens = encoder.tokenise(captions).to(accelerator.device)
    encoder.to(accelerator.device)
    return Inputs(data, tokens, LearnedText(encoder, tokens))


def make_trainer(
    config: RunConfig,
    run: RunFolder,
    record: RunRecord,
    inputs: Inputs,
    accelerator: Accelerator,
    began: float,
    scorer: Scorer | None = None,
) -> Trainer:
    """The trainer of a run; `began` is when its time limit started, by `time.monotonic`; `scorer` scores its networks."""
    networks = Networks(
        config,
        accelerator,
        lambda resolution, noise, draws: build.build_batches(
            config, inputs.data, inputs.embed, resolution, noise, draws, accelerator.device
        ),
        record.text_dim,
        inputs.text,
        run.previous_weights(config.stage),
    )
    chosen = inputs.grid_rows()
    captions = inputs.data.flat_captions()
    logger = RunLogger(run, accelerator, [captions[row] for row in chosen], inputs.table[chosen], config.seed)
    limit, train, pace = config.train.time_limit, config.train, None
    length = Length(record.length)
    if limit is None:
        length = Length.fixed(train.images or max(1, int((train.epochs or 0) * len(inputs.data.rows))))
    elif not record.length:
        rarest = max((p.every for one in networks.adversaries.values() for p in one.all_penalties()), default=1)
        pace = Pace(began + limit, limit, train.batch_size * train.critic_steps, rarest)

    def save_length(length: Length) -> None:
        if accelerator.is_main_process:
            run.update(replace(record, length=length.knots))

    return Trainer(config, run, networks, logger, length, pace, save_length, scorer)

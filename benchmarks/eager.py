"""Compare the speed of the training step of every mini variant with a plain implementation of the same networks.

    python benchmarks/eager.py

The plain implementation uses float32, contiguous memory, and upsampling plus convolution instead of one transposed
convolution. It runs a discriminator's trunk once for every text. Both implementations are timed in turn in one process,
on random images in memory, so the ratio does not depend on variations in the machine's speed.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
from accelerate.state import AcceleratorState, PartialState
from torch import Tensor

from stackflower.build import LOAD_RATIO, build_stage, fit_encoder
from stackflower.config.merge import merge
from stackflower.config.resolve import resolve
from stackflower.config.schema import PreviousStage, RunConfig
from stackflower.data.prepared import Prepared
from stackflower.data.source import Rows
from stackflower.errors import ConfigError
from stackflower.recipes.load import describe_recipes, load_recipe
from stackflower.recipes.mini import MINI
from stackflower.runs.folder import Run
from stackflower.stages.base import Discriminator, Text, Verdict
from stackflower.stages.discriminators.began import AutoencoderDiscriminator
from stackflower.stages.discriminators.matching import MatchingDiscriminator
from stackflower.stages.layers import UpsampleConv
from stackflower.text.learned import LearnedEncoder
from stackflower.text.words import build_word_lookup
from stackflower.training.accelerator import keep_memory, make_accelerator
from stackflower.training.batches.assembly import Batches
from stackflower.training.batches.batch import Drawing
from stackflower.training.batches.prepared import PreparedBatches
from stackflower.training.logger import RunLogger
from stackflower.training.networks import LearnedText, Networks
from stackflower.training.schedules import Length
from stackflower.training.trainer import Trainer

WORDS = ["a", "red", "blue", "white", "flower", "with", "pointed", "rounded", "petals", "and", "yellow", "centre"]


def _upsample_then_convolve(self: UpsampleConv, x: Tensor) -> Tensor:
    return F.conv2d(F.interpolate(x, scale_factor=2.0, mode="nearest"), self.weight, padding=1)


def _judge_separately(self: Discriminator, images: Tensor, texts: Sequence[Text]) -> list[Verdict]:
    return [self.judge(self.trunk(images), text) for text in texts]


@contextmanager
def plain_implementation() -> Iterator[None]:
    """Patch the networks so that they run as a plain implementation would."""
    with (
        patch.object(UpsampleConv, "forward", _upsample_then_convolve),
        patch.object(Discriminator, "forward", _judge_separately),
        patch.object(MatchingDiscriminator, "forward", _judge_separately),
        patch.object(AutoencoderDiscriminator, "forward", _judge_separately),
        patch.object(torch, "channels_last", torch.contiguous_format),
    ):
        yield


def has_second_stage(recipe: str) -> bool:
    """Return whether a recipe has a second stage."""
    try:
        return bool(load_recipe(recipe, 2))
    except ConfigError:
        return False


def resolve_config(recipe: str, stage: int, precision: str) -> RunConfig:
    """Resolve the configuration of a recipe's stage. The previous stage is the recipe's own, untrained."""
    values = load_recipe(recipe, stage)
    if stage > 1:
        first_stage = resolve_config(recipe, stage - 1, precision)
        previous_stage = PreviousStage(
            "untrained", stage - 1, first_stage.conditioning, first_stage.generator, LOAD_RATIO, first_stage.below
        )
        values["below"] = previous_stage.to_dict()
    return resolve(merge(values, {"mixed_precision": precision, "stage": stage}, {"output.log_every": 1_000_000}))


def build_trainer(recipe: str, stage: int, folder: str, precision: str, images: int = 256) -> Trainer:
    """Build the trainer of a recipe's stage on random images."""
    AcceleratorState._reset_state()
    PartialState._reset_state()
    config = resolve_config(recipe, stage, precision)
    accelerator = make_accelerator(config)
    keep_memory()
    encoder = config.text.create("text")
    captions = [" ".join(WORDS[(number + step) % len(WORDS)] for step in range(8)) for number in range(images)]
    fit_encoder(config, encoder, captions)
    rows = Rows(captions=[[caption] for caption in captions], labels=[number % 50 for number in range(images)])
    stage_networks = build_stage(config, encoder.dim, encoder.word_dim)
    resolution = max(stage_networks.resolutions)
    size = config.train.load_size or round(resolution * LOAD_RATIO)
    data = Prepared(torch.randint(0, 255, (images, size, size, 3), dtype=torch.uint8), rows, "")
    learned: LearnedText | None = None
    embed: Any = encoder(captions).to(accelerator.device).__getitem__
    if isinstance(encoder, LearnedEncoder):
        learned = LearnedText(encoder, encoder.tokenise(captions).to(accelerator.device))
        embed = learned.embed

    words = build_word_lookup(encoder, captions, accelerator.device) if stage_networks.uses_words else None

    def batches(drawing: Drawing) -> Batches:
        return PreparedBatches(data, embed, drawing, accelerator.device, words)

    run = Run(folder)
    logger = RunLogger(run, accelerator, ["a flower"], torch.zeros(1, encoder.dim), 0)
    networks = Networks(config, accelerator, batches, encoder.dim, learned, word_dim=encoder.word_dim)
    return Trainer(config, run, networks, logger, Length.from_total(10**9))


def measure_rate(trainer: Trainer, steps: int) -> float:
    """Measure the images per second over `steps` steps."""
    images_before, began = trainer.images, time.perf_counter()
    for _ in range(steps):
        trainer.train_step()
    if trainer.device.type == "cuda":
        torch.cuda.synchronize()
    return (trainer.images - images_before) / (time.perf_counter() - began)


def compare_speed(recipe: str, stage: int, steps: int, rounds: int) -> tuple[float, float, float]:
    """Time the plain implementation and Stackflower in turn.

    Returns:
        Images per second of the plain implementation, images per second of Stackflower, and their ratio; each is the
        median over rounds.
    """
    with tempfile.TemporaryDirectory() as folder:
        with plain_implementation():
            plain = build_trainer(recipe, stage, folder, "no")
            measure_rate(plain, 3)
        ours = build_trainer(recipe, stage, folder, "auto")
        measure_rate(ours, 3)
        rates = []
        for _ in range(rounds):
            with plain_implementation():
                plain_rate = measure_rate(plain, steps)
            rates.append((plain_rate, measure_rate(ours, steps)))
    return (
        statistics.median(plain_rate for plain_rate, _ in rates),
        statistics.median(our_rate for _, our_rate in rates),
        statistics.median(our_rate / plain_rate for plain_rate, our_rate in rates),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--recipes", nargs="*", default=["quickstart", *(name for name in describe_recipes() if name.endswith(MINI))]
    )
    args = parser.parse_args()
    print(f"{os.cpu_count()} cores, {torch.get_num_threads()} threads")
    print("| recipe | plain PyTorch, images per second | Stackflower, images per second | ratio |\n|---|---|---|---|")
    for recipe in args.recipes:
        for stage in (1, 2) if has_second_stage(recipe) else (1,):
            plain, ours, ratio = compare_speed(recipe, stage, args.steps, args.rounds)
            name = f"`{recipe}`" + (", Stage-II" if stage > 1 else "")
            print(f"| {name} | {plain:.0f} | {ours:.0f} | {ratio:.2f} |", flush=True)


if __name__ == "__main__":
    main()

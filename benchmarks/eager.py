"""Every small sibling's training step, beside the same networks run plainly, in images a second and as a ratio.

    python benchmarks/eager.py

Plainly: float32, contiguous memory, an enlargement and a convolution where ours is one transposed convolution, a
discriminator's trunk run once for every text. The two are timed in turns in one process, on random pictures in memory, so
that the ratio holds where the machine's speed wanders.
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

from stackflower.build import LOAD_RATIO, build_batches, build_stage, fit_encoder
from stackflower.config.merge import merge
from stackflower.config.resolve import resolve
from stackflower.config.schema import Lower, RunConfig
from stackflower.data.prepared import Prepared
from stackflower.data.sampling import Batches, DrawNoise
from stackflower.data.source import Rows
from stackflower.errors import ConfigError
from stackflower.recipes.load import load_recipe, recipes
from stackflower.recipes.mini import MINI
from stackflower.runs.folder import RunFolder
from stackflower.stages.base import Discriminator, Text, Verdict
from stackflower.stages.discriminators.began import AutoencoderDiscriminator
from stackflower.stages.discriminators.matching import MatchingDiscriminator
from stackflower.stages.layers import UpsampleConv
from stackflower.text.learned import LearnedEncoder
from stackflower.training.accelerator import make_accelerator
from stackflower.training.logger import Journal
from stackflower.training.trainer import LearnedText, Trainer

WORDS = ["a", "red", "blue", "white", "flower", "with", "pointed", "rounded", "petals", "and", "yellow", "centre"]


def _enlarged(self: UpsampleConv, x: Tensor) -> Tensor:
    return F.conv2d(F.interpolate(x, scale_factor=2.0, mode="nearest"), self.weight, padding=1)


def _judged_apart(self: Discriminator, images: Tensor, texts: Sequence[Text]) -> list[Verdict]:
    return [self.judge(self.trunk(images), text) for text in texts]


@contextmanager
def plainly() -> Iterator[None]:
    """The networks as a first implementation would run them."""
    with (
        patch.object(UpsampleConv, "forward", _enlarged),
        patch.object(Discriminator, "forward", _judged_apart),
        patch.object(MatchingDiscriminator, "forward", _judged_apart),
        patch.object(AutoencoderDiscriminator, "forward", _judged_apart),
        patch.object(torch, "channels_last", torch.contiguous_format),
    ):
        yield


def has_second_stage(recipe: str) -> bool:
    try:
        return bool(load_recipe(recipe, 2))
    except ConfigError:
        return False


def configured(recipe: str, stage: int, precision: str) -> RunConfig:
    """A recipe's stage; what a second one draws over is the recipe's first, untrained."""
    values = load_recipe(recipe, stage)
    if stage > 1:
        first = configured(recipe, stage - 1, precision)
        below = Lower("untrained", stage - 1, first.conditioning, first.generator, LOAD_RATIO, first.below)
        values["below"] = below.plain()
    return resolve(merge(values, {"mixed_precision": precision, "stage": stage}, ["output.log_every=1000000"]))


def trainer(recipe: str, stage: int, folder: str, precision: str, pictures: int = 256) -> Trainer:
    """The trainer of a recipe's stage on random pictures."""
    AcceleratorState._reset_state()
    PartialState._reset_state()
    config = configured(recipe, stage, precision)
    accelerator = make_accelerator(config)
    encoder = config.text.create("text")
    captions = [" ".join(WORDS[(number + step) % len(WORDS)] for step in range(8)) for number in range(pictures)]
    fit_encoder(config, encoder, captions)
    rows = Rows(captions=[[caption] for caption in captions], labels=[number % 50 for number in range(pictures)])
    resolution = max(build_stage(config, encoder.dim).resolutions)
    size = config.train.load_size or round(resolution * LOAD_RATIO)
    data = Prepared(torch.randint(0, 255, (pictures, size, size, 3), dtype=torch.uint8), rows, "")
    learned: LearnedText | None = None
    embed: Any = encoder(captions).to(accelerator.device).__getitem__
    if isinstance(encoder, LearnedEncoder):
        learned = LearnedText(encoder, encoder.tokenise(captions).to(accelerator.device))
        embed = learned.embed

    def batches(draw_noise: DrawNoise) -> Batches:
        return build_batches(config, data, embed, resolution, draw_noise, accelerator.device)

    run = RunFolder(folder)
    journal = Journal(run, accelerator, ["a flower"], torch.zeros(1, encoder.dim), 0)
    return Trainer(config, run, accelerator, batches, encoder.dim, journal, 10**9, learned)


def rate(player: Trainer, steps: int) -> float:
    """Images a second over so many steps."""
    before, began = player.images, time.perf_counter()
    for _ in range(steps):
        player.train_step()
    if player.device.type == "cuda":
        torch.cuda.synchronize()
    return (player.images - before) / (time.perf_counter() - began)


def compare(recipe: str, stage: int, steps: int, rounds: int) -> tuple[float, float, float]:
    """Images a second, plainly and ours, and the median of the rounds' ratios."""
    with tempfile.TemporaryDirectory() as folder:
        with plainly():
            plain = trainer(recipe, stage, folder, "no")
            rate(plain, 3)
        ours = trainer(recipe, stage, folder, "auto")
        rate(ours, 3)
        pairs = []
        for _ in range(rounds):
            with plainly():
                slow = rate(plain, steps)
            pairs.append((slow, rate(ours, steps)))
    return (
        statistics.median(slow for slow, _ in pairs),
        statistics.median(fast for _, fast in pairs),
        statistics.median(fast / slow for slow, fast in pairs),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--recipes", nargs="*", default=["quickstart", *(n for n in recipes() if n.endswith(MINI))])
    asked = parser.parse_args()
    print(f"{os.cpu_count()} cores, {torch.get_num_threads()} threads")
    print("| recipe | plain, images a second | ours | ratio |\n|---|---|---|---|")
    for recipe in asked.recipes:
        for stage in (1, 2) if has_second_stage(recipe) else (1,):
            plain, ours, ratio = compare(recipe, stage, asked.steps, asked.rounds)
            name = f"`{recipe}`" + (", Stage-II" if stage > 1 else "")
            print(f"| {name} | {plain:.0f} | {ours:.0f} | {ratio:.2f} |", flush=True)


if __name__ == "__main__":
    main()

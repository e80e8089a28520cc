"""From a configuration to parts: the encoder, the stage, the discriminator's side. No training code."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from stackflower.adversary import Side
from stackflower.config.schema import Lower, RunConfig
from stackflower.data.prepared import Prepared
from stackflower.data.sampling import Batches, DrawNoise, Embed
from stackflower.data.source import Source
from stackflower.errors import ConfigError
from stackflower.stages.base import Stage
from stackflower.text.base import TextEncoder
from stackflower.text.learned import LearnedEncoder, TextSide

LOAD_RATIO = 19 / 16  # StackGAN crops 64 out of 76 pixels and 256 out of 304


def build_source(config: RunConfig) -> Source:
    """The data set."""
    source: Source = config.data.create("data")
    return source


def build_encoder(config: RunConfig, kept: Path | None = None) -> TextEncoder:
    """The caption encoder, with what a run has `kept` of it, if that is there."""
    encoder: TextEncoder = config.text.create("text")
    if kept is not None and kept.is_dir():
        encoder.restore(kept)
    elif isinstance(encoder, LearnedEncoder) and not encoder.learns:
        encoder.fit(())  # its folder is there and whole, or that is told before any data is opened
    return encoder


def fit_encoder(config: RunConfig, encoder: TextEncoder, captions: Sequence[str]) -> None:
    """Give the encoder the training captions; what is random in it is fixed by the run's seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        encoder.fit(captions)


def build_text_side(config: RunConfig, encoder: LearnedEncoder, resolution: int) -> TextSide:
    """What a run trains of a text encoder, its picture encoder freshly initialised."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        return TextSide(encoder, resolution)


def build_stage(config: RunConfig | Lower, text_dim: int) -> Stage:
    """Conditioning and generator, freshly initialised, over the stages below."""
    lower = None if config.below is None else build_stage(config.below, text_dim)
    conditioning = config.conditioning.create("conditioning", text_dim=text_dim)
    context = {} if lower is None else {"lower_resolution": lower.resolutions[-1]}
    generator = config.generator.create("generator", condition_dim=conditioning.dim, **context)
    return Stage(conditioning, generator, lower)


def build_sides(config: RunConfig, text_dim: int, stage: Stage) -> dict[str, Side]:
    """A discriminator with objective and penalties for each resolution, named by it: ``discriminator-64``."""
    return {
        f"discriminator-{resolution}": Side(
            config.discriminator.create(
                "discriminator", text_dim=text_dim, condition_dim=stage.conditioning.dim, resolution=resolution
            ),
            config.objective.create("objective"),
            {part.name: part.create("penalty") for part in config.penalties},
        )
        for resolution in stage.resolutions
    }


def build_networks(config: RunConfig, text_dim: int) -> tuple[Stage, dict[str, Side]]:
    """All networks of a run, their initial weights fixed by the run's seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        stage = build_stage(config, text_dim)
        return stage, build_sides(config, text_dim, stage)


def clamped(size: int, source: Source) -> int:
    """The nearest size that the source can be prepared at."""
    return min(max(size, source.sizes[0]), source.sizes[1])


def load_size(config: RunConfig, stage: Stage, source: Source) -> int:
    """Pixels of the prepared pictures, from which training crops. ConfigError where that is too few."""
    resolution = max(stage.resolutions)
    ratio = LOAD_RATIO if config.below is None else config.below.load_ratio
    size = config.train.load_size or clamped(round(resolution * ratio), source)
    if size < resolution:
        raise ConfigError(
            f"train.load_size = {size} is less than the {resolution} px that are drawn; --set "
            f"train.load_size={round(resolution * LOAD_RATIO)} leaves the usual margin for cropping."
        )
    if not source.sizes[0] <= size <= source.sizes[1]:
        raise ConfigError(
            f"train.load_size = {size}: this data can be prepared at {source.sizes[0]} to {source.sizes[1]} px; "
            "choose a lower --set generator.resolution or another load_size."
        )
    return size


def run_values(config: RunConfig, text_dim: int, **more: Any) -> dict[str, Any]:
    """What a run's ``config.json`` holds: the configuration and what else rebuilding the networks needs."""
    return {"stackflower": version("stackflower"), "text_dim": text_dim, **more, "run": config.plain()}


def build_batches(
    config: RunConfig, data: Prepared, embed: Embed, resolution: int, draw_noise: DrawNoise, device: torch.device
) -> Batches:
    """The training split as the configuration crops, flips, pairs and embeds it."""
    train = config.train
    return Batches(
        data,
        embed,
        resolution=resolution,
        seed=config.seed,
        draw_noise=draw_noise,
        averaged=train.captions_averaged,
        flip=train.flip,
        flip_vertical=train.flip_vertical,
        noises_per_caption=train.noises_per_caption,
        wrong_candidates=train.wrong_candidates,
        interpolated=train.interpolated,
        device=device,
    )

"""Build what a configuration describes: data set, text encoder, stage and adversaries. No training code."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from stackflower import registry
from stackflower.adversary import Adversary
from stackflower.config.schema import PreviousStage, RunConfig
from stackflower.data.source import Source
from stackflower.errors import ConfigError, RunError
from stackflower.features.base import Features
from stackflower.features.loading import load_features
from stackflower.penalties.base import Penalty
from stackflower.runs.checkpoint import load_previous, load_weights
from stackflower.runs.folder import Run
from stackflower.runs.record import RunRecord
from stackflower.stages.base import Stage
from stackflower.text.base import TextEncoder
from stackflower.text.learned import LearnedEncoder, TextRanking
from stackflower.utils.distributed import get_rank_and_size

logger = logging.getLogger(__name__)

LOAD_RATIO = 19 / 16  # StackGAN crops 64 out of 76 pixels and 256 out of 304


def build_source(config: RunConfig) -> Source:
    """Open the data set of a run."""
    source: Source = config.data.create("data")
    return source


def build_encoder(config: RunConfig, kept: Path | None = None, device: torch.device | str = "cpu") -> TextEncoder:
    """Build the text encoder on a device.

    Args:
        config: configuration of the run.
        kept: folder of a run that holds the encoder; it is restored from there if the folder exists.
        device: device of the encoder.

    Raises:
        RunError: the files in `kept` are damaged.
    """
    encoder: TextEncoder = config.text.create("text")
    if kept is not None and kept.is_dir():
        encoder.restore(kept)
    elif isinstance(encoder, LearnedEncoder) and not encoder.learns:
        encoder.fit(())  # reports a missing or damaged folder before any data are opened
    encoder.to(device)
    return encoder


def fit_encoder(config: RunConfig, encoder: TextEncoder, captions: Sequence[str]) -> None:
    """Fit the encoder to the training captions; the run's seed fixes its initial weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        encoder.fit(captions)


def build_text_ranking(config: RunConfig, encoder: LearnedEncoder, resolution: int) -> TextRanking:
    """Build the pair of a text encoder and the image encoder that it is trained with.

    Args:
        config: configuration of the run, whose seed fixes the initial weights of the image encoder.
        encoder: text encoder.
        resolution: height and width of the images, in pixels.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        return TextRanking(encoder, resolution)


def build_stage(config: RunConfig | PreviousStage, text_dim: int, word_dim: int = 0) -> Stage:
    """Build a stage and its previous stages with new weights.

    Args:
        config: configuration of a run, or of a previous stage.
        text_dim: size T of the text embeddings.
        word_dim: size D of the vectors of words; 0 if the text encoder has none.
    """
    previous = None if config.below is None else build_stage(config.below, text_dim, word_dim)
    conditioning = config.conditioning.create("conditioning", text_dim=text_dim)
    context = {} if previous is None else {"previous_resolution": previous.resolutions[-1]}
    generator = config.generator.create("generator", condition_dim=conditioning.dim, word_dim=word_dim, **context)
    return Stage(conditioning, generator, previous)


def build_features(config: RunConfig) -> Features | None:
    """Load the pretrained network of a run, once per process; return None if the run uses none."""
    return None if config.features is None else load_features(config.features.to_dict())


def build_adversaries(config: RunConfig, text_dim: int, stage: Stage, word_dim: int = 0) -> dict[str, Adversary]:
    """Build an adversary for each resolution of a stage.

    Args:
        config: configuration of the run.
        text_dim: size T of the text embeddings.
        stage: stage to train.
        word_dim: size D of the vectors of words; 0 if the text encoder has none.

    Returns:
        The adversaries by name, such as ``discriminator-64``, lowest resolution first.
    """
    features = build_features(config)
    return {
        f"discriminator-{resolution}": Adversary(
            config.discriminator.create(
                "discriminator",
                text_dim=text_dim,
                condition_dim=stage.conditioning.dim,
                word_dim=word_dim,
                resolution=resolution,
                features=features,
            ),
            config.objective.create("objective"),
            _build_penalties(config, features, resolution == stage.resolutions[-1]),
            config.augmentation.create("augmentation"),
        )
        for resolution in stage.resolutions
    }


def _build_penalties(config: RunConfig, features: Features | None, is_largest: bool) -> dict[str, Penalty]:
    """Build the penalties of an adversary by name, which depend on whether its resolution is the highest."""
    text_folder = config.text.options.get("weights")
    penalties = {}
    for part in config.penalties:
        cls: type[Penalty] = registry.get("penalty", part.name)
        if is_largest or not cls.largest_only:
            penalties[part.name] = part.create("penalty", features=features, text_folder=text_folder)
    return penalties


def build_networks(config: RunConfig, text_dim: int, word_dim: int = 0) -> tuple[Stage, dict[str, Adversary]]:
    """Build the stage and the adversaries of a run; the run's seed fixes their initial weights.

    Args:
        config: configuration of the run.
        text_dim: size T of the text embeddings.
        word_dim: size D of the vectors of words; 0 if the text encoder has none.

    Returns:
        The stage, and the adversaries by name.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        stage = build_stage(config, text_dim, word_dim)
        return stage, build_adversaries(config, text_dim, stage, word_dim)


def use_words(stage: Stage, adversaries: Mapping[str, Adversary]) -> bool:
    """Return whether a network or penalty of a run uses the words of captions."""
    return stage.uses_words or any(adversary.uses_words for adversary in adversaries.values())


def clamp_size(size: int, source: Source) -> int:
    """Return the nearest size, in pixels, at which the source can be prepared."""
    return min(max(size, source.sizes[0]), source.sizes[1])


def compute_load_size(config: RunConfig, stage: Stage, source: Source) -> int:
    """Compute the height and width, in pixels, of the prepared images from which training crops.

    Args:
        config: configuration of the run.
        stage: stage to train.
        source: data set.

    Raises:
        ConfigError: the size is lower than the stage's resolution, or the data can't be prepared at it.
    """
    resolution = max(stage.resolutions)
    ratio = LOAD_RATIO if config.below is None else config.below.load_ratio
    size = config.train.load_size or clamp_size(round(resolution * ratio), source)
    if size < resolution:
        raise ConfigError(
            f"train.load_size = {size} is lower than the resolution of the generated images ({resolution} px); use "
            f"`train.load_size={round(resolution * LOAD_RATIO)}`, which leaves the usual margin for cropping."
        )
    if not source.sizes[0] <= size <= source.sizes[1]:
        raise ConfigError(
            f"train.load_size = {size}: this data can be prepared at {source.sizes[0]} to {source.sizes[1]} px; "
            "choose a lower generator.resolution or another train.load_size."
        )
    return size


def load_run(
    folder: Run, with_discriminator: bool, checkpoint: str | None
) -> tuple[Stage, TextEncoder, Adversary | None]:
    """Rebuild the networks of a run from its folder; warn about a run whose model is untrained.

    Args:
        folder: the run.
        with_discriminator: also load the newest checkpoint's discriminator of the largest images.
        checkpoint: "best", or the number of images after which a checkpoint was written; None: the last model.

    Returns:
        The averaged stage, its text encoder, and the adversary (None without `with_discriminator`).

    Raises:
        RunError: part of the run is missing or damaged, or the text encoder is not the one it was trained with.
    """
    record = folder.read_record()
    weights, text = _find_weights(folder, checkpoint)
    encoder = build_encoder(record.config, text)
    if weights.parent.parent == folder.checkpoints and isinstance(encoder, LearnedEncoder) and encoder.learns:
        load_weights(encoder.network, weights.parent / "text-ema.safetensors")
    _check_encoder(folder, record, encoder)
    stage = build_stage(record.config, record.text_dim, record.word_dim)
    load_weights(stage, weights)
    load_previous(stage, folder.previous_weights_files(record.config.stage))
    if checkpoint is None and folder.is_untrained and get_rank_and_size()[0] == 0:
        logger.warning("%s is untrained: its only checkpoint is from before the first step.", folder)
    adversary: Adversary | None = None
    if with_discriminator:
        complete = folder.list_checkpoints()
        if not complete:
            raise RunError(
                f"{folder} has no complete checkpoint, and only checkpoints hold discriminators; leave out `best_of`."
            )
        record.check_features(folder, build_features(record.config))
        adversaries = build_adversaries(record.config, record.text_dim, stage, record.word_dim)
        name, adversary = list(adversaries.items())[-1]
        load_weights(adversary, complete[-1] / f"{name}.safetensors")
    return stage, encoder, adversary


def _find_weights(folder: Run, checkpoint: str | None) -> tuple[Path, Path]:
    """Return the file of a run's averaged stage and the folder of its text encoder."""
    if checkpoint is None:
        return folder.weights_file, folder.text_folder
    if checkpoint != "best":
        return folder.find_checkpoint(checkpoint) / "generator-ema.safetensors", folder.text_folder
    best = folder.read_best()
    if best is None:
        raise RunError(
            f"{folder} has no best model: train with `output.eval_every=IMAGES`, or leave out `checkpoint=best`."
        )
    text = folder.best_text_folder(best["images"])
    return folder.best_weights, text if text.is_dir() else folder.text_folder


def _check_encoder(folder: Run, record: RunRecord, encoder: TextEncoder) -> None:
    """Raise RunError unless the text encoder is the one that the run was trained with."""
    if encoder.dim != record.text_dim or encoder.fingerprint() != record.encoder:
        raise RunError(
            f"{folder} was trained with another text encoder ({record.encoder}, {record.text_dim} dimensions) than "
            f"the current one ({encoder.fingerprint()}, {encoder.dim} dimensions), so images would not match their "
            "captions. Restore the encoder, or install the version of Stackflower that trained the run "
            f"({record.stackflower})."
        )

"""Requests of the tabs: checked values, and the images that they stand for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from PIL import Image

from stackflower.demo.files import ANIMATIONS
from stackflower.demo.models import DemoModel, Models
from stackflower.demo.values import (
    MAX_CANDIDATES,
    MAX_IMAGES,
    read_caption,
    read_choice,
    read_flag,
    read_integer,
    read_optional_seed,
    read_seed,
    read_truncation,
)
from stackflower.errors import ConfigError
from stackflower.text.checks import check_given_captions

DEFAULT_IMAGES, DEFAULT_FRAMES = 8, 24


@dataclass(frozen=True)
class DrawRequest:
    """Images of one model for one caption; the fields are parameters of `Pipeline.generate`."""

    model: str
    caption: str
    per_caption: int
    seed: int
    truncation: float | None
    best_of: int
    side_by_side: bool


FormatCommand = Callable[[DrawRequest], str]


@dataclass(frozen=True)
class Drawn:
    """Generated images, and notes about the request, one sentence each."""

    images: list[Image.Image]
    notes: list[str]


def read_draw_request(
    model: object,
    caption: object,
    images: object,
    seed: object,
    truncation: object,
    best_of: object,
    side_by_side: object,
) -> DrawRequest:
    """Check the values of the tab Draw.

    Raises:
        ConfigError: a value is of another type or out of range.
    """
    return DrawRequest(
        str(model),
        read_caption(caption),
        read_integer("images", images, 1, MAX_IMAGES),
        read_seed(seed),
        read_truncation(truncation),
        read_integer("best_of", best_of, 1, MAX_CANDIDATES),
        read_flag("side_by_side", side_by_side),
    )


def draw(models: Models, request: DrawRequest) -> Drawn:
    """Generate the images of a request, in the thread of the models.

    Raises:
        StackflowerError: the model can't be opened, or can't do what is requested.
    """
    return models.run(lambda: _draw(models.get(request.model), request))


def _draw(model: DemoModel, request: DrawRequest) -> Drawn:
    if request.best_of > 1 and model.best_of_problem:
        raise ConfigError(f"`best_of={request.best_of}`: {model.best_of_problem} Set `best_of` to 1.")
    if request.side_by_side and not model.has_several_resolutions:
        raise ConfigError(f"`side_by_side`: the model generates {model.pipeline.resolution} px only; turn it off.")
    notes = check_given_captions(model.pipeline.encoder, [request.caption])
    batches = model.pipeline.generate(
        [request.caption],
        per_caption=request.per_caption,
        seed=request.seed,
        truncation=request.truncation,
        best_of=request.best_of,
        side_by_side=request.side_by_side,
    )
    return Drawn([Image.fromarray(image.numpy()) for batch in batches for image in batch], notes)


@dataclass(frozen=True)
class BetweenRequest:
    """Frames of one model on the way from a caption and a seed to others."""

    model: str
    captions: list[str]
    seed: int
    end_seed: int | None
    frames: int
    truncation: float | None
    animation: str


def read_between_request(
    model: object,
    caption: object,
    end_caption: object,
    seed: object,
    end_seed: object,
    frames: object,
    truncation: object,
    animation: object,
) -> BetweenRequest:
    """Check the values of the tab Between.

    Raises:
        ConfigError: a value is of another type or out of range, or neither the caption nor the seed changes.
    """
    captions = [read_caption(caption, "start_caption")]
    if end_caption is not None and not (isinstance(end_caption, str) and not end_caption.strip()):
        captions.append(read_caption(end_caption, "end_caption"))
    first_seed = read_seed(seed, "start_seed")
    last_seed = read_optional_seed(end_seed, "end_seed")
    if captions == captions[:1] * len(captions) and last_seed in (None, first_seed):
        raise ConfigError("Nothing changes between the two ends; give another `end_caption` or another `end_seed`.")
    return BetweenRequest(
        str(model),
        captions,
        first_seed,
        last_seed,
        read_integer("frames", frames, 2, MAX_IMAGES),
        read_truncation(truncation),
        read_choice("animation", animation, ANIMATIONS),
    )


def interpolate(models: Models, request: BetweenRequest) -> Drawn:
    """Generate the frames of a request, in the thread of the models.

    Raises:
        StackflowerError: the model can't be opened, or can't do what is requested.
    """

    def work() -> Drawn:
        pipeline = models.get(request.model).pipeline
        notes = check_given_captions(pipeline.encoder, request.captions)
        batches = pipeline.interpolate(
            request.captions,
            request.frames,
            seed=request.seed,
            end_seed=request.end_seed,
            truncation=request.truncation,
        )
        return Drawn([Image.fromarray(image.numpy()) for batch in batches for image in batch], notes)

    return models.run(work)


def compare(models: Models, requests: tuple[DrawRequest, DrawRequest]) -> tuple[Drawn, Drawn, list[str]]:
    """Generate the images of two models for the same caption and seed, in the thread of the models.

    Returns:
        The images of each model, and a note if their noise differs.

    Raises:
        StackflowerError: a model can't be opened, or can't do what is requested.
    """

    def work() -> tuple[Drawn, Drawn, list[str]]:
        first, second = (models.get(request.model) for request in requests)
        notes = (
            [] if _takes_same_noise(first, second) else ["The models take different noise, so only the seed is equal."]
        )
        return _draw(first, requests[0]), _draw(second, requests[1]), notes

    return models.run(work)


def _takes_same_noise(first: DemoModel, second: DemoModel) -> bool:
    """Return whether two models draw the same noise from the same seed."""
    one, other = (model.pipeline.stage.draw_noise(2, torch.Generator().manual_seed(0)) for model in (first, second))
    return torch.equal(one, other)

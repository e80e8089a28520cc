"""What a run is: frozen dataclasses, read from a recipe and flags, checked whole, written to ``config.json``.

Precedence: recipe < flags < ``--set``. A part is ``{"name": …, options}``; its options are those of its constructor.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from stackflower import registry
from stackflower.options import Below1, Count, Natural, Positive, Share, Weight


@dataclass(frozen=True)
class Part:
    """A named part and its options."""

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)

    def create(self, kind: str, **context: Any) -> Any:
        """Build it; `context` is what the builder supplies for this kind."""
        return registry.create(kind, self.name, **context, **self.options)

    def plain(self) -> dict[str, Any]:
        return {"name": self.name, **self.options}

    @classmethod
    def from_plain(cls, values: Mapping[str, Any]) -> Part:
        """What `plain` gave."""
        return cls(values["name"], {key: value for key, value in values.items() if key != "name"})


@dataclass(frozen=True)
class Train:
    """How long, how fast and in what steps training goes. All durations are counted in images seen."""

    images: Count | None = None  # how many images to train on
    epochs: Positive | None = None  # the same, in passes over the training split
    batch_size: Count = 64  # images a step, over all processes and accumulation steps
    gradient_accumulation: Count = 1  # parts that a batch is worked through in
    captions_averaged: Count = 1  # captions of a picture whose embeddings are averaged
    flip: bool = True  # mirror half of the pictures left to right
    flip_vertical: bool = False  # and half of them upside down
    load_size: Count | None = None  # pixels that the crop is taken from (19/16 of the resolution)
    ema_half_life: Weight = 10_000.0  # images after which a weight has half faded from the average; 0 turns it off
    critic_steps: Count = 1  # discriminator steps for each generator step
    noises_per_caption: Count = 1  # how often each caption stands in a drawn batch
    wrong_candidates: Count = 1  # captions of other classes drawn for a picture, of which the likest is its wrong one
    interpolated: Share = 0.0  # share of a drawn batch that is asked for halfway between two captions (GAN-INT)
    sync_batch_norm: bool = True  # batch statistics over all processes


@dataclass(frozen=True)
class Optimizer:
    """One side's optimizer and its learning-rate schedule."""

    name: Literal["adam", "rmsprop", "sgd"] = "adam"
    lr: Positive = 2e-4  # learning rate
    beta1: Below1 = 0.5  # decay of the mean gradient; momentum in rmsprop and sgd
    beta2: Below1 = 0.999  # decay of the mean squared gradient (adam, rmsprop)
    halve_every: Weight = 0.0  # epochs after which the learning rate is halved, again and again; 0: never
    decay_from: Share = 1.0  # share of training after which the learning rate falls linearly to zero; 1: never
    plateau: Weight = (
        0.0  # epochs without a lower convergence measure after which the learning rate is halved; 0: never
    )
    clip_norm: Weight = 0.0  # gradients longer than this are shortened to it; 0: never


@dataclass(frozen=True)
class Lower:
    """The stage that a stage draws over, as its run had it: what is needed to rebuild the networks."""

    run: str  # the folder it was read from, for the record: its weights become part of the run above
    stage: int
    conditioning: Part
    generator: Part
    load_ratio: (
        float  # prepared over drawn pixels: the stage above must crop as much, or its flowers are of another size
    )
    below: Lower | None = None

    def plain(self) -> dict[str, Any]:
        return {
            "run": self.run,
            "load_ratio": self.load_ratio,
            "stage": self.stage,
            "conditioning": self.conditioning.plain(),
            "generator": self.generator.plain(),
            "below": None if self.below is None else self.below.plain(),
        }

    @classmethod
    def from_plain(cls, values: Mapping[str, Any]) -> Lower:
        """What `plain` gave."""
        return cls(
            str(values["run"]),
            int(values["stage"]),
            Part.from_plain(values["conditioning"]),
            Part.from_plain(values["generator"]),
            float(values["load_ratio"]),
            None if values.get("below") is None else cls.from_plain(values["below"]),
        )


@dataclass(frozen=True)
class Output:
    """What is written while training."""

    log_every: Count = 50  # steps between lines of metrics.jsonl
    sample_every: Weight = 0.0  # images between sample grids; 0: a tenth of the training
    checkpoint_every: Weight = 0.0  # images between checkpoints; 0: a tenth of the training
    keep_last: Count = 2  # newest checkpoints that are kept
    keep_every: Natural = 0  # every Nth checkpoint is kept for good; 0: none


@dataclass(frozen=True)
class RunConfig:
    """Everything that decides what a run does."""

    recipe: str
    stage: int
    seed: int
    mixed_precision: str
    data: Part
    text: Part
    conditioning: Part
    generator: Part
    discriminator: Part
    objective: Part
    penalties: tuple[Part, ...]
    train: Train
    optimizer: Mapping[str, Optimizer]
    output: Output
    below: Lower | None = None

    def plain(self) -> dict[str, Any]:
        """As JSON and TOML hold it; `from_plain` reads it back."""
        values: dict[str, Any] = {}
        for spec in dataclasses.fields(self):
            value = getattr(self, spec.name)
            if isinstance(value, (Part, Lower)):
                value = value.plain()
            elif spec.name == "penalties":
                value = {part.name: dict(part.options) for part in value}
            elif spec.name == "optimizer":
                value = {side: dataclasses.asdict(settings) for side, settings in value.items()}
            elif dataclasses.is_dataclass(value) and not isinstance(value, type):
                value = dataclasses.asdict(value)
            values[spec.name] = value
        return values

    def json(self) -> str:
        return json.dumps(self.plain(), indent=2, ensure_ascii=False) + "\n"

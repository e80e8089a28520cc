"""What a run is: frozen dataclasses, read from a recipe and flags, checked as a whole, written to ``config.json``.

A part is ``{"name": …, options}``; its options are the parameters of its constructor.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from stackflower import registry
from stackflower.declarations import Requirement
from stackflower.errors import ConfigError
from stackflower.options import BatchSize, Below1, Count, Natural, Positive, Share, Weight


@dataclass(frozen=True)
class Part:
    """A named part and its options."""

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)

    def create(self, kind: str, **context: Any) -> Any:
        """Build it; `context` is what the builder supplies for this kind."""
        return registry.create(kind, self.name, **context, **self.options)

    def to_dict(self) -> dict[str, Any]:
        """Return name and options as one dict."""
        return {"name": self.name, **self.options}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Part:
        """Build a part from the result of `to_dict`. TypeError for a name that is not a string."""
        if not isinstance(values["name"], str):
            raise TypeError(f"name = {values['name']!r}")
        return cls(values["name"], {key: value for key, value in values.items() if key != "name"})


@dataclass(frozen=True)
class Train:
    """Length, speed and steps of the training. All durations are counted in images seen."""

    images: Count | None = None  # number of images to train on
    epochs: Positive | None = None  # the same, in passes over the training split
    time_limit: Positive | None = None  # the same, in seconds: as many images as fit
    batch_size: BatchSize = 64  # images a step, over all processes and accumulation steps
    gradient_accumulation: Count = 1  # parts in which a batch is processed
    captions_averaged: Count = 1  # captions of an image whose embeddings are averaged
    flip: bool = True  # mirror half of the images left to right
    flip_vertical: bool = False  # and half of them upside down
    load_size: Count | None = None  # pixels from which crops are taken (19/16 of the resolution)
    ema_half_life: Weight = 10_000.0  # half-life of the average of the weights, in images; 0 turns it off
    critic_steps: Count = 1  # discriminator steps for each generator step
    latents_per_caption: Count = 1  # latents for which each caption of a batch is generated
    hard_negatives: Count = 1  # negative captions drawn for an image, of which the most similar to its own is used
    interpolated: Share = 0.0  # share of a generated batch whose text is halfway between two captions (GAN-INT)
    contrasted: Natural = 0  # captions that the contrast tells an image's own from, besides those of the batch
    sync_batch_norm: bool = True  # batch statistics over all processes
    compile: bool = (
        False  # torch.compile for generator and discriminator: some minutes at the start, then faster on a GPU
    )


LENGTHS = ("images", "epochs", "time_limit")  # one of them sets the length of the training


@dataclass(frozen=True)
class Optimizer:
    """One optimizer and its learning-rate schedule."""

    name: Literal["adam", "rmsprop", "sgd"] = "adam"
    lr: Positive = 2e-4  # learning rate
    beta1: Below1 = 0.5  # decay of the mean gradient; momentum in rmsprop and sgd
    beta2: Below1 = 0.999  # decay of the mean squared gradient (adam, rmsprop)
    halve_every: Weight = 0.0  # epochs after which the learning rate is halved, again and again; 0: never
    decay_from: Share = 1.0  # share of training after which the learning rate falls linearly to zero; 1: never
    plateau: Weight = (
        0.0  # epochs without a lower convergence measure after which the learning rate is halved; 0: never
    )
    clip_norm: Weight = 0.0  # maximum norm of the gradients; 0: not clipped


@dataclass(frozen=True)
class PreviousStage:
    """The stage that a later one refines, as its run had it: what is needed to rebuild the networks."""

    run: str  # the folder it was read from, for the record: its weights become part of the later run
    stage: int
    conditioning: Part
    generator: Part
    load_ratio: (
        float  # prepared over generated pixels: the later stage must crop as much, or its objects differ in size
    )
    below: PreviousStage | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON holds them."""
        return {
            "run": self.run,
            "load_ratio": self.load_ratio,
            "stage": self.stage,
            "conditioning": self.conditioning.to_dict(),
            "generator": self.generator.to_dict(),
            "below": None if self.below is None else self.below.to_dict(),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> PreviousStage:
        """Build the previous stage from the result of `to_dict`."""
        return cls(
            str(values["run"]),
            int(values["stage"]),
            Part.from_dict(values["conditioning"]),
            Part.from_dict(values["generator"]),
            float(values["load_ratio"]),
            None if values.get("below") is None else cls.from_dict(values["below"]),
        )


@dataclass(frozen=True)
class Output:
    """What is written during training."""

    log_every: Count = 50  # steps between lines of metrics.jsonl
    sample_every: Weight = 0.0  # images between sample grids; 0: a tenth of the training, if a time limit allows
    checkpoint_every: Weight = 0.0  # images between checkpoints; 0: a tenth of the training, if a time limit allows
    keep_last: Count = 2  # newest checkpoints that are kept
    keep_every: Natural = 0  # every Nth checkpoint is kept for good; 0: none
    eval_every: Weight = 0.0  # images between scores of the held-out split; 0: none
    eval_metrics: tuple[str, ...] = ("is", "fid")  # metrics of these scores
    eval_samples: Count | None = None  # images generated for them; None: as many as in the split, at most 5,000
    eval_extractor: str | None = None  # feature extractor; None: the one that `stackflower eval` would choose
    eval_weights: str | None = None  # file of the extractor's weights
    best: str = "fid"  # the metric by which the best model is kept


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
    augmentation: Part
    objective: Part
    features: Part | None  # the pretrained network that discriminator or penalties look through
    penalties: tuple[Part, ...]
    train: Train
    optimizer: Mapping[str, Optimizer]
    output: Output
    below: PreviousStage | None = None

    def to_dict(self) -> dict[str, Any]:
        """As JSON and TOML hold it; `resolve` reads it back."""
        values: dict[str, Any] = {}
        for spec in dataclasses.fields(self):
            value = getattr(self, spec.name)
            if isinstance(value, (Part, PreviousStage)):
                value = value.to_dict()
            elif spec.name == "penalties":
                value = {part.name: dict(part.options) for part in value}
            elif spec.name == "optimizer":
                value = {name: dataclasses.asdict(settings) for name, settings in value.items()}
            elif dataclasses.is_dataclass(value) and not isinstance(value, type):
                value = dataclasses.asdict(value)
            values[spec.name] = value
        return values

    def to_json(self) -> str:
        """Return the configuration as indented JSON."""
        return json.dumps(self.to_dict(), indent=2, ensure_ascii=False) + "\n"


OPTIONAL = ("features",)  # parts of a run that may be none
PARTS = ("data", "text", "conditioning", "generator", "discriminator", "augmentation", "objective")
SECTIONS: dict[str, type] = {"train": Train, "output": Output}
OPTIMIZERS = ("generator", "discriminator", "text")

# what a setting requires of the parts, where it is not at its default
SETTING_REQUIREMENTS: dict[str, tuple[Requirement, ...]] = {
    "train.contrasted": (
        Requirement(
            "similarities", "discriminator", "adds captions to a contrast, and {other} gives none", dispensable=True
        ),
        Requirement("contrast", "objective", "adds captions to a contrast, and {other} has none", dispensable=True),
    ),
    **{
        f"optimizer.{network}.plateau": (
            Requirement("convergence measure", "objective", "follows a convergence measure, and {other} has none"),
        )
        for network in OPTIMIZERS
    },
}
# settings of a recipe that hold only for the recipe's own value of an option
BOUND_SETTINGS = {"train.load_size": ("generator", "resolution")}


def get_default(setting: str) -> Any:
    """Return the default of a setting by its dotted name; None if it has none."""
    table, _, name = setting.rpartition(".")
    return getattr(Optimizer if table.startswith("optimizer.") else SECTIONS.get(table), name, None)


def read(tree: Mapping[str, Any], setting: str) -> Any:
    """Return the value of a setting in a tree of plain values, or its default."""
    values: Any = tree
    for key in setting.split("."):
        if not isinstance(values, Mapping) or key not in values:
            return get_default(setting)
        values = values[key]
    return values


def put(tree: dict[str, Any], setting: str, value: Any) -> None:
    """Set a value in a tree of plain values by its dotted name.

    Raises:
        ConfigError: a table on the way is a value.
    """
    *tables, name = setting.split(".")
    for table in tables:
        tree = tree.setdefault(table, {})
        if not isinstance(tree, dict):
            raise ConfigError(f"{setting}: {table!r} is a value, not a table.")
    tree[name] = value

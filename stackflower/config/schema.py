"""The configuration of a run: frozen dataclasses, which `resolve` builds and ``config.json`` stores.

A part is stored as ``{"name": …, option: …}``; its options are the parameters of its constructor.
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
    """A part and its options.

    Args:
        name: name of the part.
        options: values by option.
    """

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)

    def create(self, kind: str, **context: Any) -> Any:
        """Build the part.

        Args:
            kind: kind of part.
            context: parameters that the builder supplies for the kind.

        Raises:
            ComponentError: the part is unknown, an option is wrong, or the constructor fails.
        """
        return registry.create(kind, self.name, **context, **self.options)

    def to_dict(self) -> dict[str, Any]:
        """Convert to one dict of name and options."""
        return {"name": self.name, **self.options}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Part:
        """Read a part from the result of `to_dict`.

        Args:
            values: name and options.

        Raises:
            KeyError: the name is missing.
            TypeError: the name is not a string.
        """
        if not isinstance(values["name"], str):
            raise TypeError(f"name = {values['name']!r}")
        return cls(values["name"], {key: value for key, value in values.items() if key != "name"})


@dataclass(frozen=True)
class Train:
    """Length, batches and steps of the training. Durations are counted in images seen."""

    images: Count | None = None  # number of images to train on
    epochs: Positive | None = None  # the same, in passes over the training split
    time_limit: Positive | None = None  # the same, in seconds: as many images as fit
    batch_size: BatchSize = 64  # images per step, in total over all processes and accumulation steps
    gradient_accumulation: Count = 1  # number of parts that a batch is processed in
    captions_averaged: Count = 1  # captions per image whose embeddings are averaged
    flip: bool = True  # mirror half of the images left to right
    flip_vertical: bool = False  # flip half of the images upside down
    load_size: Count | None = None  # size in pixels of the images that are cropped; None: 19/16 of the resolution
    ema_half_life: Weight = 10_000.0  # half-life of the weight average (EMA) in images; 0: no average
    critic_steps: Count = 1  # discriminator steps per generator step
    latents_per_caption: Count = 1  # latents per caption in a generated batch
    hard_negatives: Count = 1  # negative captions drawn per image; the one most similar to its own caption is used
    interpolated: Share = 0.0  # share of a generated batch with texts halfway between two captions (GAN-INT)
    contrasted: Natural = 0  # captions in the contrastive loss in addition to those of the batch
    sync_batch_norm: bool = True  # compute batch statistics over all processes
    compile: bool = False  # compile generator and discriminator (torch.compile): slow to start, faster on a GPU
    threads: Count | None = None  # threads on a CPU; None: OMP_NUM_THREADS, else the fastest, as timed in training


LENGTHS = ("images", "epochs", "time_limit")  # one of them sets the length of the training


@dataclass(frozen=True)
class Optimizer:
    """One optimizer and its learning-rate schedule."""

    name: Literal["adam", "rmsprop", "sgd"] = "adam"
    lr: Positive = 2e-4  # learning rate
    beta1: Below1 = 0.5  # decay of the mean gradient; momentum for rmsprop and sgd
    beta2: Below1 = 0.999  # decay of the mean squared gradient (adam, rmsprop)
    halve_every: Weight = 0.0  # halve the learning rate every so many epochs; 0: never
    decay_from: Share = 1.0  # share of the training after which the learning rate decays linearly to zero; 1: never
    plateau: Weight = 0.0  # halve the learning rate after so many epochs without a lower convergence measure; 0: never
    clip_norm: Weight = 0.0  # maximum gradient norm; 0: no clipping


@dataclass(frozen=True)
class PreviousStage:
    """Everything that is needed to rebuild the networks of the stage that a later stage refines.

    Args:
        run: folder from which the stage was read, for the record only: the later run keeps the weights.
        stage: number of the stage.
        conditioning: its conditioning.
        generator: its generator.
        load_ratio: size of its prepared images divided by its resolution. The later stage crops at the same ratio, so
            that objects keep their size.
        below: the stage before it, if any.
    """

    run: str
    stage: int
    conditioning: Part
    generator: Part
    load_ratio: float
    below: PreviousStage | None = None

    def to_dict(self) -> dict[str, Any]:
        """Convert to JSON types."""
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
        """Read the previous stage from the result of `to_dict`."""
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
    """What is written during the training, and how often."""

    log_every: Count = 50  # steps between lines of metrics.jsonl
    sample_every: Weight = 0.0  # images between sample grids; 0: a tenth of the training, if the time limit allows
    checkpoint_every: Weight = 0.0  # images between checkpoints; 0: a tenth of the training, if the time limit allows
    keep_last: Count = 2  # number of newest checkpoints to keep
    keep_every: Natural = 0  # keep every Nth checkpoint permanently; 0: none
    eval_every: Weight = 0.0  # images between scores on the held-out split; 0: no scores
    eval_metrics: tuple[str, ...] = ("is", "fid")  # metrics of these scores
    eval_samples: Count | None = None  # images generated for these scores; None: as many as in the split, at most 5,000
    eval_extractor: str | None = None  # feature extractor; None: the default of `stackflower eval`
    eval_weights: str | None = None  # file of the extractor's weights
    best: str = "fid"  # metric that selects the best model
    captions: tuple[str, ...] = ()  # captions to add to the sample grids


@dataclass(frozen=True)
class RunConfig:
    """The complete configuration of a run, as `resolve` returns it."""

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
    features: Part | None  # pretrained network that the discriminator or penalties use
    penalties: tuple[Part, ...]
    train: Train
    optimizer: Mapping[str, Optimizer]
    output: Output
    below: PreviousStage | None = None
    start_from: str | None = None  # model whose weights the training starts from, for the record

    def to_dict(self) -> dict[str, Any]:
        """Convert to plain values, as in JSON and TOML; `resolve` is the inverse."""
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
        """Format the configuration as indented JSON."""
        return json.dumps(self.to_dict(), indent=2, ensure_ascii=False) + "\n"


OPTIONAL = ("features",)  # kinds of which a run may have no part
PARTS = ("data", "text", "conditioning", "generator", "discriminator", "augmentation", "objective")
SECTIONS: dict[str, type] = {"train": Train, "output": Output}
OPTIMIZERS = ("generator", "discriminator", "text")

# requirements of settings that differ from their default
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
# settings of a recipe that are dropped if this option (kind, name) differs from the recipe's
BOUND_SETTINGS = {"train.load_size": ("generator", "resolution")}


def get_default(setting: str) -> Any:
    """Return the default of a setting by its dotted name; None for a setting without a default."""
    table, _, name = setting.rpartition(".")
    return getattr(Optimizer if table.startswith("optimizer.") else SECTIONS.get(table), name, None)


def read(tree: Mapping[str, Any], setting: str) -> Any:
    """Return a setting of a tree of plain values, or its default.

    Args:
        tree: tree of plain values.
        setting: dotted name.
    """
    values: Any = tree
    for key in setting.split("."):
        if not isinstance(values, Mapping) or key not in values:
            return get_default(setting)
        values = values[key]
    return values


def put(tree: dict[str, Any], setting: str, value: Any) -> None:
    """Set a value in a tree of plain values.

    Args:
        tree: tree of plain values, changed in place.
        setting: dotted name; missing tables are added.
        value: the value.

    Raises:
        ConfigError: the dotted name leads through a value that is not a table.
    """
    *tables, name = setting.split(".")
    for table in tables:
        tree = tree.setdefault(table, {})
        if not isinstance(tree, dict):
            raise ConfigError(f"{setting}: {table!r} is a value, not a table.")
    tree[name] = value

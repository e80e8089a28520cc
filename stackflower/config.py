"""What a run is: frozen dataclasses, read from a recipe and flags, checked whole, written to ``config.json``.

Precedence: recipe < flags < ``--set``. A part is ``{"name": …, options}``; its options are those of its constructor.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_type_hints

from stackflower import registry
from stackflower.errors import ComponentError, ConfigError
from stackflower.mixes import BOUNDS, lengths, mixes
from stackflower.ranges import Below1, Count, Natural, Positive, Share, Weight, out_of_range


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


PARTS = ("data", "text", "conditioning", "generator", "discriminator", "objective")
SECTIONS: dict[str, type] = {"train": Train, "output": Output}
SIDES = ("generator", "discriminator", "text")
SIDE_DEFAULTS: dict[str, dict[str, Any]] = {"text": {"clip_norm": 10.0}}  # the competition report's
HEADER = ("description", "source", "deviations", "recipe", "stage", "seed", "mixed_precision", "below")
PRECISIONS = ("auto", "no", "bf16", "fp16")
DEFAULTS: dict[str, Any] = {
    "stage": 1,
    "seed": 0,
    "mixed_precision": "auto",
    "data": {"name": "synthetic-flowers"},
    "text": {"name": "ngram"},
    "conditioning": {"name": "augmentation"},
    "generator": {"name": "stage1"},
    "discriminator": {"name": "matching"},
}


def parse_value(text: str) -> Any:
    """A ``--set`` value: TOML where it is TOML (numbers, true, "…", […]), otherwise the string itself."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _put(tree: dict[str, Any], path: Sequence[str], value: Any) -> None:
    for key in path[:-1]:
        tree = tree.setdefault(key, {})
        if not isinstance(tree, dict):
            raise ConfigError(f"--set {'.'.join(path)}: {key!r} is a value, not a section.")
    tree[path[-1]] = value


def _swap(tree: dict[str, Any], kind: str, name: str) -> None:
    """Name a part; the options of a part of another name do not carry over."""
    section = tree.get(kind)
    if not isinstance(section, dict) or section.get("name") != name:
        tree[kind] = {"name": name}


def _penalise(recipe: Any, flags: Mapping[str, Any]) -> Any:
    """The recipe's penalties with the flags' added; a flag for one that is there changes its weight. "none" drops all."""
    if not isinstance(recipe, Mapping):
        return recipe  # refused later, with the rest
    kept = {} if "none" in flags else {name: dict(v) if isinstance(v, Mapping) else v for name, v in recipe.items()}
    for name, options in flags.items():
        if name != "none":
            before = kept.get(name, {})
            kept[name] = {**(before if isinstance(before, Mapping) else {"weight": before}), **options}
    return kept


def _resolution(tree: Mapping[str, Any]) -> Any:
    """Pixels that the tree's generator draws, by its option or its default."""
    part = tree.get("generator")
    return registry.value("generator", part, "resolution") if isinstance(part, Mapping) else None


def merge(recipe: Mapping[str, Any], flags: Mapping[str, Any], settings: Sequence[str]) -> dict[str, Any]:
    """Recipe, then flags (dotted keys; a part's own name names the part), then ``--set`` texts, as one tree.

    Where they change the resolution, the recipe's margin for cropping does not carry over.
    """
    tree = copy.deepcopy(DEFAULTS)
    for key, value in recipe.items():
        tree[key] = copy.deepcopy(dict(value) if isinstance(value, Mapping) else value)
        if key in PARTS and isinstance(value, Mapping) and "name" not in value:
            tree[key]["name"] = DEFAULTS.get(key, {}).get("name", "")
    intended = _resolution(tree)
    before = tree.get("discriminator")
    named = before.get("name") if isinstance(before, Mapping) else None
    if flags.get("discriminator", named) != named and "objective" not in flags:
        tree.pop("objective", None)  # a swapped discriminator brings its own
    for key, value in flags.items():
        if key in PARTS:
            _swap(tree, key, value["name"] if isinstance(value, dict) else value)
            if isinstance(value, dict):
                tree[key] |= value
        elif key == "penalties":
            tree["penalties"] = _penalise(tree.get("penalties", {}), value)
        else:
            _put(tree, key.split("."), value)
    for text in settings:
        key, equals, value = text.partition("=")
        if not equals:
            raise ConfigError(f"--set {text}: wanted part.option=value, as in --set generator.channels=96.")
        _put(tree, key.strip().split("."), parse_value(value.strip()))
    train, drawn = tree.get("train"), _resolution(tree)
    given = "train.load_size" in flags or any(text.startswith("train.load_size=") for text in settings)
    if isinstance(train, dict) and intended != drawn and not given:
        train["load_size"] = None
    return tree


def _section(cls: type, values: Any, name: str, problems: list[str]) -> Any:
    """A dataclass from plain values, collecting what is wrong."""
    if not isinstance(values, Mapping):
        problems.append(
            f"{name} = {values!r}: wanted a section with {', '.join(f.name for f in dataclasses.fields(cls))}."
        )
        return cls()
    hints, good = get_type_hints(cls, include_extras=True), {}
    for key, value in values.items():
        if key not in hints:
            problems.append(f"There is no setting {name}.{key}.{registry.suggest(key, hints)}")
        elif not registry.fits(value, hints[key]):
            problems.append(f"{name}.{key} = {value!r}: wanted {registry.describe(hints[key])}.")
        elif wrong := out_of_range(value, hints[key]):
            problems.append(f"{name}.{key} = {value}: {wrong}")
        else:
            good[key] = value
    return cls(**good)


def _part(tree: Mapping[str, Any], kind: str, problems: list[str]) -> Part:
    values = tree.get(kind)
    if not isinstance(values, Mapping) or not isinstance(values.get("name"), str):
        problems.append(f'{kind} = {values!r}: wanted a section with a name, as in [{kind}] name = "…".')
        return Part("")
    options = {key: value for key, value in values.items() if key != "name"}
    problems += registry.check(kind, values["name"], options)
    return Part(values["name"], _with_defaults(kind, values["name"], options))


def _with_defaults(kind: str, name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """The options given and the defaults of the rest: a later default does not change an earlier run."""
    try:
        known = registry.options(kind, name)
    except ComponentError:
        return dict(given)  # told by `registry.check`
    defaults = {key: p.default for key, p in known.items() if p.default is not p.empty}
    return {**{key: list(v) if isinstance(v, tuple) else v for key, v in defaults.items()}, **given}


def _penalties(values: Any, problems: list[str]) -> tuple[Part, ...]:
    if not isinstance(values, Mapping):
        problems.append(f"penalties = {values!r}: wanted a section for each, as in [penalties.r1] weight = 10.")
        return ()
    parts = []
    for name, options in values.items():
        options = options if isinstance(options, Mapping) else {"weight": options}
        problems += registry.check("penalty", name, options)
        parts.append(Part(name, _with_defaults("penalty", name, options)))
    return tuple(parts)


def _below(values: Any, problems: list[str]) -> Lower | None:
    try:
        return Lower.from_plain(values) if values else None
    except (KeyError, TypeError, ValueError, AttributeError):
        problems.append(f"below = {values!r}: the stage below is told by --below RUN, which reads it from the run.")
        return None


def resolve(tree: Mapping[str, Any]) -> RunConfig:
    """A checked RunConfig from a merged tree. ConfigError lists everything that is wrong, at once."""
    problems: list[str] = []
    tree = dict(tree)
    known = (*HEADER, *PARTS, *SECTIONS, "penalties", "optimizer")
    problems += [
        f"There is no section or key {key!r}.{registry.suggest(key, known)}" for key in tree if key not in known
    ]
    if "objective" not in tree:
        name = tree["discriminator"].get("name") if isinstance(tree.get("discriminator"), Mapping) else None
        try:
            default = registry.get("discriminator", str(name)).default_objective  # type: ignore[attr-defined]
            penalties = tree.get("penalties", {})
            unbounded = registry.get("objective", default).unbounded  # type: ignore[attr-defined]
            none = tree.get("penalties") == {}  # as --penalty none leaves it
            if unbounded and isinstance(penalties, Mapping) and not none and not BOUNDS & set(penalties):
                tree["penalties"] = {**penalties, "gradient": {}}  # it comes with its objective
        except ComponentError:
            default = "bce"  # the unknown discriminator is told below
        tree["objective"] = {"name": default}
    if not isinstance(tree["stage"], int) or tree["stage"] < 1:
        problems.append(f"--stage {tree['stage']}: allowed are 1, 2, 3 …")
    if tree["mixed_precision"] not in PRECISIONS:
        problems.append(f"mixed_precision = {tree['mixed_precision']!r}: allowed are {', '.join(PRECISIONS)}.")
    if not isinstance(tree["seed"], int) or tree["seed"] < 0:
        problems.append(f"seed = {tree['seed']!r}: wanted a whole number from 0 up.")
    optimizers = tree.get("optimizer", {})
    if not (
        isinstance(optimizers, Mapping)
        and set(optimizers) <= set(SIDES)
        and all(isinstance(settings, Mapping) for settings in optimizers.values())
    ):
        problems.append(f"optimizer has the sections {', '.join(SIDES)}, each with settings; given: {optimizers!r}.")
        optimizers = {}
    parts = {kind: _part(tree, kind, problems) for kind in PARTS}
    sections = {name: _section(cls, tree.get(name, {}), name, problems) for name, cls in SECTIONS.items()}
    config = RunConfig(
        recipe=str(tree.get("recipe", "")),
        stage=tree["stage"],
        seed=tree["seed"],
        mixed_precision=tree["mixed_precision"],
        data=parts["data"],
        text=parts["text"],
        conditioning=parts["conditioning"],
        generator=parts["generator"],
        discriminator=parts["discriminator"],
        objective=parts["objective"],
        penalties=_penalties(tree.get("penalties", {}), problems),
        train=sections["train"],
        optimizer={
            side: _section(
                Optimizer, {**SIDE_DEFAULTS.get(side, {}), **optimizers.get(side, {})}, f"optimizer.{side}", problems
            )
            for side in SIDES
        },
        output=sections["output"],
        below=_below(tree.get("below"), problems),
    )
    problems += ([] if problems else lengths(config)) + mixes(config)  # lengths say nothing of values that were refused
    if problems:
        raise ConfigError(dict.fromkeys(problems))
    return config


def from_plain(values: Mapping[str, Any]) -> RunConfig:
    """A RunConfig from what `RunConfig.plain` gave."""
    return resolve(values)

"""Recipes: one TOML file a published system, plain values only; and the one rule that makes a CPU's size of each.

``NAME`` is the system as published, ``NAME-mini`` its small sibling: `narrowed`, then what the recipe's own ``[mini]`` table
changes, with the reason beside each value. A ``[stage2]`` table holds what differs in a stage over another; its
``[stage2.mini]`` is the sibling's.
"""

from __future__ import annotations

import copy
import tomllib
from collections.abc import Mapping
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from stackflower import registry
from stackflower.errors import ConfigError

MINI = "-mini"
NARROWER = {"generator": 1 / 4, "discriminator": 3 / 8}  # share of the width that a small sibling keeps


@cache
def _built_in() -> dict[str, str]:
    """The built-in files: name to text."""
    return {
        path.name.removesuffix(".toml"): path.read_text(encoding="utf-8")
        for path in sorted(resources.files("stackflower.recipes").iterdir(), key=lambda path: path.name)
        if path.name.endswith(".toml")
    }


def recipes() -> dict[str, str]:
    """The built-in recipes, small siblings included: name to one-line description."""
    found = {}
    for name, text in _built_in().items():
        values = tomllib.loads(text)
        found[name] = values["description"]
        if "mini" in values:
            found[name + MINI] = f"{name} at a CPU's size: narrower, small batches, minutes"
    return found


def _merged(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """`one` with what `other` has; a section that names another part takes nothing over, and `false` drops a section."""
    values = dict(one)
    for key, value in other.items():
        before = values.get(key)
        if value is False and isinstance(before, Mapping):
            del values[key]
        elif isinstance(before, Mapping) and isinstance(value, Mapping):
            same = value.get("name", before.get("name")) == before.get("name")
            values[key] = _merged(before, value) if same else copy.deepcopy(dict(value))
        else:
            values[key] = copy.deepcopy(value)
    return values


def narrowed(values: Mapping[str, Any]) -> dict[str, Any]:
    """The rule of the small siblings, the same for every recipe.

    A quarter of the generator's width and three eighths of the discriminator's; pictures above 64 px at a quarter of the size;
    batches of 16, one caption a picture, two noises a caption that are told to differ (`mode-seeking`, without which minutes
    teach one picture a caption), the discriminator shown the batch's deviation where it can be, little room for cropping; a KL weight of a fortieth, without which the
    condition is noise for the first thousand steps; 2.5 times the learning rate, falling to zero over the last seven tenths; an average of
    a short half-life; counted in images instead of epochs.
    """
    small = copy.deepcopy(dict(values))
    for kind, share in NARROWER.items():
        part = small.setdefault(kind, {})
        width = registry.value(kind, part, "channels")
        if width is not None:
            part["channels"] = max(8, round(width * share))
    resolution = registry.value("generator", small["generator"], "resolution") or 64
    if resolution > 64:
        resolution //= 4
        small["generator"]["resolution"] = resolution
    if registry.value("discriminator", small["discriminator"], "minibatch_deviation") is not None:
        small["discriminator"]["minibatch_deviation"] = True
    small["penalties"] = {**small.get("penalties", {}), "mode-seeking": {"weight": 0.3}}
    weight = registry.value("conditioning", small.get("conditioning", {}), "kl_weight")
    if weight is not None:
        small["conditioning"]["kl_weight"] = weight / 40
    train = {key: value for key, value in small.get("train", {}).items() if key not in ("epochs", "captions_averaged")}
    small["train"] = train | {
        "images": 100_000,
        "batch_size": min(train.get("batch_size", 64), 16),
        "noises_per_caption": 2,
        "ema_half_life": 600.0,
    }
    optimizers = small.setdefault("optimizer", {})
    for side in ("generator", "discriminator", *(["text"] if "text" in optimizers else [])):
        settings = optimizers.setdefault(side, {})
        settings["lr"] = 2.5 * settings.get("lr", 2e-4)
        settings["decay_from"] = 0.3
        settings.pop("halve_every", None)
    return small


def load_recipe(name: str, stage: int = 1) -> dict[str, Any]:
    """A built-in recipe by name, or a TOML file by path, for a stage, as nested plain values."""
    base = name.removesuffix(MINI) if name in recipes() else name
    if base in _built_in():
        text = _built_in()[base]
    else:
        path = Path(name).expanduser()
        if not path.is_file():
            raise ConfigError(
                f"There is no recipe {name!r}.{registry.suggest(name, recipes())} A path to a TOML file goes too."
            )
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise ConfigError(f"Recipe {name} is not a text file in UTF-8 ({error}).") from error
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"Recipe {name} is not TOML: {error}.") from error
    mini, upper = values.pop("mini", {}), values.pop("stage2", None)
    for table, content in (("mini", mini), ("stage2", {} if upper is None else upper)):
        if not isinstance(content, Mapping):
            raise ConfigError(f"Recipe {name}: {table} = {content!r}; wanted a table, as in [{table}.train].")
    if stage > 1:
        if upper is None:
            stacked = [known for known, text in _built_in().items() if "stage2" in tomllib.loads(text)]
            raise ConfigError(
                f"Recipe {name} has no stage over another (no [stage2] table); those that have: {', '.join(stacked)}."
            )
        mini = upper.pop("mini", {})
        values = _merged(values, upper)
        train = values.get("train")
        if isinstance(train, dict) and "load_size" not in (upper.get("train") or {}):  # as much is cropped off as below
            train.pop("load_size", None)
    if base != name and base in _built_in():
        values = _merged(narrowed(values), mini)
        if stage == 1:
            resolution = registry.value("generator", values["generator"], "resolution") or 64
            values["train"] = {**values["train"], "load_size": round(resolution * 33 / 32)}
    return {**values, "recipe": name, "stage": stage}

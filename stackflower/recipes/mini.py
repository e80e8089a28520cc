"""The rule that makes a recipe's mini variant, which trains in minutes on a CPU."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from stackflower import registry

MINI = "-mini"
NARROWER = {"generator": 1 / 4, "discriminator": 3 / 8}  # share of the width that a mini variant keeps


def merged_tables(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """`one` updated by `other`, table by table; a table that names another part replaces the old one, and `false` removes it."""
    values = dict(one)
    for key, value in other.items():
        old = values.get(key)
        if value is False and isinstance(old, Mapping):
            del values[key]
        elif isinstance(old, Mapping) and isinstance(value, Mapping):
            same = value.get("name", old.get("name")) == old.get("name")
            values[key] = merged_tables(old, value) if same else copy.deepcopy(dict(value))
        else:
            values[key] = copy.deepcopy(value)
    return values


def narrowed(values: Mapping[str, Any]) -> dict[str, Any]:
    """The mini variant of a recipe, by the same rule for all recipes.

    - a quarter of the generator's width and three eighths of the discriminator's;
    - images above 64 px at a quarter of the resolution;
    - batches of 16, one caption for an image;
    - two latents for a caption with the `mode-seeking` penalty, and minibatch deviation in a discriminator that has it: without
      them, a short training gives a single image for a caption;
    - a KL weight of a fortieth, without which the condition is mostly noise for the first thousand steps;
    - 2.5 times the learning rate, falling to zero over the last seven tenths of the training;
    - an average of the weights with a short half-life;
    - a length in images instead of epochs.
    """
    mini = copy.deepcopy(dict(values))
    for kind, share in NARROWER.items():
        part = mini.setdefault(kind, {})
        width = registry.value(kind, part, "channels")
        if width is not None:
            part["channels"] = max(8, round(width * share))
    resolution = registry.value("generator", mini["generator"], "resolution") or 64
    if resolution > 64:
        resolution //= 4
        mini["generator"]["resolution"] = resolution
    if registry.value("discriminator", mini["discriminator"], "minibatch_deviation") is not None:
        mini["discriminator"]["minibatch_deviation"] = True
    mini["penalties"] = {**mini.get("penalties", {}), "mode-seeking": {"weight": 0.3}}
    weight = registry.value("conditioning", mini.get("conditioning", {}), "kl_weight")
    if weight is not None:
        mini["conditioning"]["kl_weight"] = weight / 40
    train = {key: value for key, value in mini.get("train", {}).items() if key not in ("epochs", "captions_averaged")}
    mini["train"] = train | {
        "images": 100_000,
        "batch_size": min(train.get("batch_size", 64), 16),
        "latents_per_caption": 2,
        "ema_half_life": 600.0,
    }
    optimizers = mini.setdefault("optimizer", {})
    for network in ("generator", "discriminator", *(["text"] if "text" in optimizers else [])):
        settings = optimizers.setdefault(network, {})
        settings["lr"] = 2.5 * settings.get("lr", 2e-4)
        settings["decay_from"] = 0.3
        settings.pop("halve_every", None)
    return mini

"""Derive the mini variant of a recipe, which trains in minutes on a CPU."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from stackflower import registry

MINI = "-mini"
WIDTH_SHARES = {"generator": 1 / 4, "discriminator": 3 / 8}  # share of the published number of channels


def merge_tables(base: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Merge `overrides` into a copy of `base`, table by table, and return the result.

    A table that names another part replaces the old table. `false` removes the old table.
    """
    values = dict(base)
    for key, value in overrides.items():
        old = values.get(key)
        if value is False and isinstance(old, Mapping):
            del values[key]
        elif isinstance(old, Mapping) and isinstance(value, Mapping):
            same_part = value.get("name", old.get("name")) == old.get("name")
            values[key] = merge_tables(old, value) if same_part else copy.deepcopy(dict(value))
        else:
            values[key] = copy.deepcopy(value)
    return values


def derive_mini(values: Mapping[str, Any]) -> dict[str, Any]:
    """Derive the mini variant of a recipe, by the same rules for all recipes.

    - a quarter of the generator's width and three eighths of the discriminator's;
    - a quarter of the resolution, if that is above 64 px;
    - batches of 16, one caption per image;
    - two latents per caption with the `mode-seeking` penalty, and minibatch deviation if the discriminator supports it:
      without them, a short training produces one image per caption;
    - a fortieth of the KL weight: at full weight, the condition is mostly noise for the first thousand steps;
    - 2.5 times the learning rate, with a linear decay to zero over the last seven tenths of the training;
    - a weight average (EMA) with a short half-life;
    - a length in images instead of epochs.
    """
    mini = copy.deepcopy(dict(values))
    for kind, share in WIDTH_SHARES.items():
        part = mini.setdefault(kind, {})
        width = registry.get_value(kind, part, "channels")
        if width is not None:
            part["channels"] = max(8, round(width * share))
    resolution = registry.get_value("generator", mini["generator"], "resolution") or 64
    if resolution > 64:
        resolution //= 4
        mini["generator"]["resolution"] = resolution
    if registry.get_value("discriminator", mini["discriminator"], "minibatch_deviation") is not None:
        mini["discriminator"]["minibatch_deviation"] = True
    mini["penalties"] = {**mini.get("penalties", {}), "mode-seeking": {"weight": 0.3}}
    weight = registry.get_value("conditioning", mini.get("conditioning", {}), "kl_weight")
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

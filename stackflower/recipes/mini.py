"""The one rule that makes a CPU's size of a recipe."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from stackflower import registry

MINI = "-mini"
NARROWER = {"generator": 1 / 4, "discriminator": 3 / 8}  # share of the width that a small sibling keeps


def merged_tables(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """`one` with what `other` has; a section that names another part takes nothing over, and `false` drops a section."""
    values = dict(one)
    for key, value in other.items():
        before = values.get(key)
        if value is False and isinstance(before, Mapping):
            del values[key]
        elif isinstance(before, Mapping) and isinstance(value, Mapping):
            same = value.get("name", before.get("name")) == before.get("name")
            values[key] = merged_tables(before, value) if same else copy.deepcopy(dict(value))
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

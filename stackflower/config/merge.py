"""Recipe, flags and ``--set`` texts as one tree."""

from __future__ import annotations

import copy
import tomllib
from collections.abc import Mapping, Sequence
from typing import Any

from stackflower import registry
from stackflower.config.resolve import PARTS
from stackflower.errors import ConfigError

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

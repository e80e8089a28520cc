"""Merge recipe, parts and settings into one tree of plain values: recipe < parts < settings."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

from stackflower.config.requirements import Tree, follow
from stackflower.config.schema import LENGTHS, OPTIONAL, PARTS, put

DEFAULTS: dict[str, Any] = {
    "stage": 1,
    "seed": 0,
    "mixed_precision": "auto",
    "data": {"name": "synthetic-flowers"},
    "text": {"name": "ngram"},
    "conditioning": {"name": "augmentation"},
    "generator": {"name": "stage1"},
    "discriminator": {"name": "matching"},
    "augmentation": {"name": "none"},
}


def merge(
    recipe: Mapping[str, Any],
    flags: Mapping[str, Any],
    settings: Mapping[str, Any],
    report: Callable[[str], None] = lambda sentence: None,
) -> Tree:
    """Merge recipe, flags and settings into the tree that `resolve` checks.

    Args:
        recipe: as `load_recipe` gives it.
        flags: dotted keys; the name of a kind names the part ("generator": "dcgan").
        settings: values by dotted name; they take precedence over flags.
        report: called with a sentence for everything that changes because something else was changed.
    """
    tree = add_defaults(recipe)
    before = copy.deepcopy(tree)
    given = apply_flags(tree, flags) | apply_settings(tree, settings)
    _replace_length(tree, given)
    follow(tree, before, given, report)
    tree.setdefault("objective", {"name": "bce"})  # where the discriminator, which brings one, is unknown
    return tree


def add_defaults(recipe: Mapping[str, Any]) -> Tree:
    """Put a recipe over the defaults; a table without a name configures the default part."""
    tree = copy.deepcopy(DEFAULTS)
    for key, value in recipe.items():
        tree[key] = copy.deepcopy(dict(value) if isinstance(value, Mapping) else value)
        if key in (*PARTS, *OPTIONAL) and isinstance(value, Mapping) and "name" not in value:
            tree[key] |= DEFAULTS.get(key, {})
    return tree


def apply_flags(tree: Tree, flags: Mapping[str, Any]) -> set[str]:
    """Put the flags into the tree; their keys."""
    for key, value in flags.items():
        if key in (*PARTS, *OPTIONAL):
            name, options = (value["name"], value) if isinstance(value, dict) else (value, {})
            _name_part(tree, key, name)
            tree[key] |= options
        elif key == "penalties":
            tree["penalties"] = _add_penalties(tree.get("penalties", {}), value)
        else:
            put(tree, key, value)
    return set(flags)


def apply_settings(tree: Tree, settings: Mapping[str, Any]) -> set[str]:
    """Put settings by dotted name into the tree; return their names."""
    for key, value in settings.items():
        put(tree, key, value)
    return set(settings)


def _replace_length(tree: Tree, given: set[str]) -> None:
    """Let a given length replace the recipe's, whatever its unit."""
    train = tree.get("train")
    chosen = [name for name in LENGTHS if f"train.{name}" in given]
    if isinstance(train, dict) and chosen:
        for name in LENGTHS:
            if name not in chosen:
                train.pop(name, None)


def _name_part(tree: Tree, kind: str, name: str) -> None:
    """Name a part; the options of a part of another name do not carry over."""
    section = tree.get(kind)
    if not isinstance(section, dict) or section.get("name") != name:
        tree[kind] = {"name": name}


def _add_penalties(recipe: Any, flags: Mapping[str, Any]) -> Any:
    """Add the penalties of flags to the recipe's, or change their weight; "none" drops the recipe's."""
    if not isinstance(recipe, Mapping):
        return recipe  # refused later, with the rest
    kept = {} if "none" in flags else {name: dict(v) if isinstance(v, Mapping) else v for name, v in recipe.items()}
    for name, options in flags.items():
        if name != "none":
            before = kept.get(name, {})
            kept[name] = {**(before if isinstance(before, Mapping) else {"weight": before}), **options}
    return kept

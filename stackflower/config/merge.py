"""Merge recipe, flags and settings into one tree of plain values. Precedence: recipe < flags < settings."""

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
        recipe: recipe, as returned by `load_recipe`.
        flags: parts by kind (``{"generator": "dcgan"}``), and values by dotted name.
        settings: values by dotted name, which take precedence over flags.
        report: called with a sentence for each change that follows from another choice.

    Returns:
        The tree.

    Raises:
        ConfigError: a dotted name leads through a value that is not a table.
    """
    tree = add_defaults(recipe)
    before = copy.deepcopy(tree)
    given = apply_flags(tree, flags) | apply_settings(tree, settings)
    _replace_length(tree, given)
    follow(tree, before, given, report)
    tree.setdefault("objective", {"name": "bce"})  # an unknown discriminator brings no objective
    return tree


def add_defaults(recipe: Mapping[str, Any]) -> Tree:
    """Merge a recipe with the defaults; a table without a name sets options of the default part."""
    tree = copy.deepcopy(DEFAULTS)
    for key, value in recipe.items():
        tree[key] = copy.deepcopy(dict(value) if isinstance(value, Mapping) else value)
        if key in (*PARTS, *OPTIONAL) and isinstance(value, Mapping) and "name" not in value:
            tree[key] |= DEFAULTS.get(key, {})
    return tree


def apply_flags(tree: Tree, flags: Mapping[str, Any]) -> set[str]:
    """Set the flags in the tree, in place.

    Args:
        tree: tree of plain values.
        flags: parts by kind, and values by dotted name.

    Returns:
        The names of the flags; each penalty has its own, ``penalties.NAME``.
    """
    given: set[str] = set()
    for key, value in flags.items():
        if key in (*PARTS, *OPTIONAL):
            name, options = (value["name"], value) if isinstance(value, dict) else (value, {})
            _name_part(tree, key, name)
            tree[key] |= options
        elif key == "penalties":
            tree["penalties"] = _add_penalties(tree.get("penalties", {}), value)
        else:
            put(tree, key, value)
        given |= {f"penalties.{name}" for name in value} if key == "penalties" else {key}
    return given


def apply_settings(tree: Tree, settings: Mapping[str, Any]) -> set[str]:
    """Set values by dotted name in the tree, in place; return their names."""
    for key, value in settings.items():
        put(tree, key, value)
    return set(settings)


def _replace_length(tree: Tree, given: set[str]) -> None:
    """Remove the recipe's length if the user sets one, in any unit."""
    train = tree.get("train")
    chosen = [name for name in LENGTHS if f"train.{name}" in given]
    if isinstance(train, dict) and chosen:
        for name in LENGTHS:
            if name not in chosen:
                train.pop(name, None)


def _name_part(tree: Tree, kind: str, name: str) -> None:
    """Choose a part by name, dropping the options of a different part."""
    section = tree.get(kind)
    if not isinstance(section, dict) or section.get("name") != name:
        tree[kind] = {"name": name}


def _add_penalties(recipe: Any, flags: Mapping[str, Any]) -> Any:
    """Add penalties to the recipe's, or change their options; "none" removes the recipe's."""
    if not isinstance(recipe, Mapping):
        return recipe  # `resolve` reports it together with all other mistakes
    kept = {} if "none" in flags else {name: dict(v) if isinstance(v, Mapping) else v for name, v in recipe.items()}
    for name, options in flags.items():
        if name != "none":
            before = kept.get(name, {})
            kept[name] = {**(before if isinstance(before, Mapping) else {"weight": before}), **options}
    return kept

"""Recipe, flags and ``--set`` as one tree of plain values. Precedence: recipe < flags < ``--set``."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from stackflower import registry
from stackflower.config.schema import LENGTHS, OPTIONAL, PARTS
from stackflower.errors import ComponentError, ConfigError

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
FEATURES = "efficientnet-lite0"  # where none are named
Tree = dict[str, Any]


def merge(
    recipe: Mapping[str, Any],
    flags: Mapping[str, Any],
    settings: Mapping[str, Any],
    report: Callable[[str], None] = lambda sentence: None,
) -> Tree:
    """The tree that `resolve` checks.

    Args:
        recipe: as `load_recipe` gives it.
        flags: dotted keys; the name of a kind names the part ("generator": "dcgan").
        settings: values by dotted name; they take precedence over flags.
        report: called with a sentence for everything that changes because something else was changed (`follow`).
    """
    tree = with_defaults(recipe)
    before = copy.deepcopy(tree)
    given = apply_flags(tree, flags) | apply_settings(tree, settings)
    follow(tree, before, given, report)
    return tree


def with_defaults(recipe: Mapping[str, Any]) -> Tree:
    """A recipe over the defaults; a part's table without a name is of the default part."""
    tree = copy.deepcopy(DEFAULTS)
    for key, value in recipe.items():
        tree[key] = copy.deepcopy(dict(value) if isinstance(value, Mapping) else value)
        if key in (*PARTS, *OPTIONAL) and isinstance(value, Mapping) and "name" not in value:
            tree[key]["name"] = DEFAULTS.get(key, {"name": FEATURES}).get("name", "")
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
            _put(tree, key.split("."), value)
    return set(flags)


def apply_settings(tree: Tree, settings: Mapping[str, Any]) -> set[str]:
    """Put settings by dotted name into the tree; return their names."""
    for key, value in settings.items():
        _put(tree, key.split("."), value)
    return set(settings)


def follow(tree: Tree, before: Mapping[str, Any], given: set[str], report: Callable[[str], None]) -> None:
    """What changes with something that was changed: the length, the crop, the objective and its penalty."""
    _follow_length(tree, given)
    _follow_resolution(tree, before, given, report)
    _follow_discriminator(tree, before, given, report)
    _follow_maps(tree, before, report)
    _follow_contrast(tree, given, report)
    _follow_features(tree, given, report)


def _follow_length(tree: Tree, given: set[str]) -> None:
    """A length that is given replaces the recipe's, whatever unit that has."""
    train = tree.get("train")
    chosen = [name for name in LENGTHS if f"train.{name}" in given]
    if isinstance(train, dict) and chosen:
        for name in LENGTHS:
            if name not in chosen:
                train.pop(name, None)


def _follow_resolution(tree: Tree, before: Mapping[str, Any], given: set[str], report: Callable[[str], None]) -> None:
    """A recipe's margin for cropping is for its own resolution."""
    train = tree.get("train")
    changed = _resolution(before) != _resolution(tree)
    if isinstance(train, dict) and train.get("load_size") and changed and "train.load_size" not in given:
        report(f"train.load_size {train['load_size']} was for another resolution: the usual margin is used.")
        train["load_size"] = None


def _follow_discriminator(
    tree: Tree, before: Mapping[str, Any], given: set[str], report: Callable[[str], None]
) -> None:
    """A discriminator that replaces the recipe's comes with its default objective, and that with the penalty it needs."""
    name, replaced = _part_name(tree), _part_name(tree) != _part_name(before)
    if "objective" in tree and not (replaced and not {"objective", "objective.name"} & given):
        return
    try:
        default = registry.get("discriminator", str(name)).default_objective  # type: ignore[attr-defined]
        unbounded = registry.get("objective", default).needs_gradient_penalty  # type: ignore[attr-defined]
    except ComponentError:  # an unknown discriminator, which `resolve` reports
        default, unbounded = "bce", False
    if replaced or default != "bce":
        report(f"Objective {default} comes with discriminator {name}; --objective chooses another.")
    options = tree.get("objective", {}) if isinstance(tree.get("objective"), Mapping) else {}
    tree["objective"] = {"name": default, **{key: options[key] for key in options if f"objective.{key}" in given}}
    penalties = tree.get("penalties", {})
    if (
        not unbounded or not isinstance(penalties, Mapping) or tree.get("penalties") == {}
    ):  # as --penalty none leaves it
        return
    if not any(limits_gradient(penalty) for penalty in penalties):
        report(f"Penalty gradient comes with objective {default}, which needs one.")
        tree["penalties"] = {**penalties, "gradient": {}}


def _follow_maps(tree: Tree, before: Mapping[str, Any], report: Callable[[str], None]) -> None:
    """A recipe's penalties that compare what its discriminator sees go with it."""
    penalties, theirs = tree.get("penalties"), before.get("penalties")
    if not isinstance(penalties, dict) or not isinstance(theirs, Mapping):
        return
    if registry.takes("discriminator", str(_part_name(tree)), "features"):
        return
    for name in [name for name in penalties if name in theirs and _attribute("penalty", name, "uses_maps")]:
        report(f"Penalty {name} was for the recipe's discriminator: left out.")
        del penalties[name]


def _follow_contrast(tree: Tree, given: set[str], report: Callable[[str], None]) -> None:
    """A recipe's captions for the contrast go with it."""
    train, objective = tree.get("train"), tree.get("objective")
    if not isinstance(train, dict) or not train.get("contrasted") or "train.contrasted" in given:
        return
    discriminator = tree.get("discriminator")
    compares = isinstance(discriminator, Mapping) and registry.value("discriminator", discriminator, "contrastive")
    contrasts = isinstance(objective, Mapping) and _attribute("objective", str(objective.get("name")), "contrasts")
    if not (compares and contrasts):
        report(f"train.contrasted {train['contrasted']} was for the recipe's contrast: left out.")
        train["contrasted"] = 0


def _follow_features(tree: Tree, given: set[str], report: Callable[[str], None]) -> None:
    """Features come with a discriminator or penalty that looks through a pretrained network, and go with the last of them."""
    features = tree.get("features")
    if isinstance(features, dict) and "name" not in features:
        features["name"] = FEATURES
    needed = uses_features(tree)
    if needed and features is None:
        tree["features"] = {"name": FEATURES}
    elif not needed and features is not None and not any(key.partition(".")[0] == "features" for key in given):
        report("Features were for the recipe's discriminator, and nothing else uses them: left out.")
        del tree["features"]


def uses_features(tree: Mapping[str, Any]) -> bool:
    """Whether the discriminator, or a penalty by its option `space`, looks through a pretrained network."""
    penalties = tree.get("penalties")
    spaces = (
        [part.get("space") for part in penalties.values() if isinstance(part, Mapping)]
        if isinstance(penalties, Mapping)
        else []
    )
    return "features" in spaces or registry.takes("discriminator", str(_part_name(tree)), "features")


def limits_gradient(penalty: str) -> bool:
    """Whether a penalty, by its name, bounds the gradient of the discriminator."""
    return _attribute("penalty", penalty, "limits_gradient")


def _attribute(kind: str, name: str, attribute: str) -> bool:
    """An attribute of a part's class; False for an unknown part, which `resolve` reports."""
    try:
        return bool(getattr(registry.get(kind, name), attribute))
    except ComponentError:
        return False


def _part_name(tree: Mapping[str, Any]) -> Any:
    part = tree.get("discriminator")
    return part.get("name") if isinstance(part, Mapping) else None


def _resolution(tree: Mapping[str, Any]) -> Any:
    """Pixels of the tree's generator, by its option or its default."""
    part = tree.get("generator")
    return registry.value("generator", part, "resolution") if isinstance(part, Mapping) else None


def _put(tree: Tree, path: Sequence[str], value: Any) -> None:
    for key in path[:-1]:
        tree = tree.setdefault(key, {})
        if not isinstance(tree, dict):
            raise ConfigError(f"{'.'.join(path)}: {key!r} is a value, not a table.")
    tree[path[-1]] = value


def _name_part(tree: Tree, kind: str, name: str) -> None:
    """Name a part; the options of a part of another name do not carry over."""
    section = tree.get(kind)
    if not isinstance(section, dict) or section.get("name") != name:
        tree[kind] = {"name": name}


def _add_penalties(recipe: Any, flags: Mapping[str, Any]) -> Any:
    """The recipe's penalties with the flags' added; a flag for one that is there changes its weight. "none" drops all."""
    if not isinstance(recipe, Mapping):
        return recipe  # refused later, with the rest
    kept = {} if "none" in flags else {name: dict(v) if isinstance(v, Mapping) else v for name, v in recipe.items()}
    for name, options in flags.items():
        if name != "none":
            before = kept.get(name, {})
            kept[name] = {**(before if isinstance(before, Mapping) else {"weight": before}), **options}
    return kept

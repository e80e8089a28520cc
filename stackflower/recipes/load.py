"""Recipes: one TOML file a published system, plain values only; and the one rule that makes a CPU's size of each.

``NAME`` is the system as published, ``NAME-mini`` its small sibling: `narrowed`, then what the recipe's own ``[mini]`` table
changes, with the reason beside each value. A ``[stage2]`` table holds what differs in a stage over another; its
``[stage2.mini]`` is the sibling's.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from stackflower import registry
from stackflower.errors import ConfigError
from stackflower.recipes.mini import MINI, merged_tables, narrowed


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
        values = merged_tables(values, upper)
        train = values.get("train")
        if isinstance(train, dict) and "load_size" not in (upper.get("train") or {}):  # as much is cropped off as below
            train.pop("load_size", None)
    if base != name and base in _built_in():
        values = merged_tables(narrowed(values), mini)
        if stage == 1:
            resolution = registry.value("generator", values["generator"], "resolution") or 64
            values["train"] = {**values["train"], "load_size": round(resolution * 33 / 32)}
    return {**values, "recipe": name, "stage": stage}

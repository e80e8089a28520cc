"""Recipes: a TOML file of plain values for each published model, and its mini variant.

``NAME`` is the model as published, ``NAME-mini`` its mini variant: `narrowed`, then changed by the recipe's own ``[mini]`` table, with
the reason beside each value. A ``[stage2]`` table holds what differs in a later stage, ``[stage2.mini]`` what differs in that of the
mini variant. A ``[gpu]`` table holds what differs where there is a GPU, ``[stage2.gpu]`` what differs in a later stage there.
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
from stackflower.options import suggest
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
    """The built-in recipes, mini variants included: name to one-line description."""
    found = {}
    for name, text in _built_in().items():
        values = tomllib.loads(text)
        found[name] = values["description"]
        if "mini" in values:
            found[name + MINI] = f"{name} as a mini variant: narrower, small batches, minutes on a CPU"
    return found


def has_later_stage(name: str) -> bool:
    """Whether a recipe, built-in or a file, has a ``[stage2]`` table; False where it is gone."""
    try:
        return "stage2" in _parse(name, _read(name, name.removesuffix(MINI) if name in recipes() else name))
    except ConfigError:
        return False


def load_recipe(name: str, stage: int = 1, gpu: bool = False) -> dict[str, Any]:
    """A built-in recipe by name, or a TOML file by path, for a stage and, with `gpu`, for a machine that has one: nested plain values.
    ConfigError says what is wrong with it."""
    base = name.removesuffix(MINI) if name in recipes() else name
    values = _parse(name, _read(name, base))
    mini, later, on_gpu = (_pop_table(name, values, table) for table in ("mini", "stage2", "gpu"))
    if stage > 1:
        values, mini = _later_stage(name, values, later)
        on_gpu = _pop_table(name, values, "gpu")
    if gpu and base == name:
        values = merged_tables(values, on_gpu or {})
    if base != name:
        values = _mini_variant(values, {} if mini is None else mini, stage)
    return {**values, "recipe": name, "stage": stage}


def _read(name: str, base: str) -> str:
    """The text of the built-in recipe `base`, or else of the file `name`."""
    if base in _built_in():
        return _built_in()[base]
    path = Path(name).expanduser()
    if not path.is_file():
        raise ConfigError(
            f"There is no recipe {name!r}.{suggest(name, recipes())} A path to a TOML file is allowed too."
        )
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"Recipe {name} is not a text file in UTF-8 ({error}).") from error


def _parse(name: str, text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"Recipe {name} is not TOML: {error}.") from error


def _pop_table(name: str, values: dict[str, Any], table: str) -> dict[str, Any] | None:
    """Remove a table from a recipe's values and return it, or None if there is none."""
    content: dict[str, Any] | None = values.pop(table, None)
    if content is not None and not isinstance(content, Mapping):
        raise ConfigError(f"Recipe {name}: {table} = {content!r}; wanted a table, as in [{table}.train].")
    return content


def _later_stage(
    name: str, values: dict[str, Any], later: dict[str, Any] | None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The values of a recipe's later stage, from its ``[stage2]`` table, and what differs in its mini variant."""
    if later is None:
        known = [recipe for recipe, text in _built_in().items() if "stage2" in tomllib.loads(text)]
        raise ConfigError(
            f"Recipe {name} has no later stage (no [stage2] table); those that have one: {', '.join(known)}."
        )
    mini = later.pop("mini", {})
    values = merged_tables(values, later)
    train = values.get("train")
    # without a load_size of its own, a later stage crops by the same share as the previous one
    if isinstance(train, dict) and "load_size" not in (later.get("train") or {}):
        train.pop("load_size", None)
    return values, mini


def _mini_variant(values: dict[str, Any], mini: Mapping[str, Any], stage: int) -> dict[str, Any]:
    """The mini variant of a stage's values: `narrowed`, changed by its ``mini`` table, in the first stage with a small crop margin."""
    values = merged_tables(narrowed(values), mini)
    if stage == 1:
        resolution = registry.value("generator", values["generator"], "resolution") or 64
        values["train"] = {**values["train"], "load_size": round(resolution * 33 / 32)}
    return values

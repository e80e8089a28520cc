"""Recipes: one TOML file of plain values per published model, and its mini variant.

``NAME`` is the model as published. ``NAME-mini`` is its mini variant: `derive_mini` applies the rules common to all
recipes, and the ``[mini]`` table of the recipe adds what its variant needs beyond them, with the reason beside each
value. Further tables override values:

- ``[stage2]`` in a later stage, ``[stage2.mini]`` in a later stage of the mini variant;
- ``[gpu]`` on a machine with a GPU, ``[stage2.gpu]`` in a later stage there.
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
from stackflower.recipes.mini import MINI, derive_mini, merge_tables


@cache
def _built_in() -> dict[str, str]:
    """Return the text of each built-in recipe file, by name."""
    return {
        path.name.removesuffix(".toml"): path.read_text(encoding="utf-8")
        for path in sorted(resources.files("stackflower.recipes").iterdir(), key=lambda path: path.name)
        if path.name.endswith(".toml")
    }


def describe_recipes() -> dict[str, str]:
    """Return the one-line description of each built-in recipe, including mini variants, by name."""
    descriptions = {}
    for name, text in _built_in().items():
        values = tomllib.loads(text)
        descriptions[name] = values["description"]
        if "mini" in values:
            descriptions[name + MINI] = f"Mini variant of {name}: narrower, small batches, trains in minutes on a CPU"
    return descriptions


def has_later_stage(name: str) -> bool:
    """Return whether a recipe, built-in or a file, has a ``[stage2]`` table; False if the recipe can't be read."""
    try:
        return "stage2" in _parse(name, _read(name, name.removesuffix(MINI) if name in describe_recipes() else name))
    except ConfigError:
        return False


def load_recipe(name: str, stage: int = 1, gpu: bool = False) -> dict[str, Any]:
    """Load a recipe as nested plain values.

    Args:
        name: name of a built-in recipe, or path of a TOML file.
        stage: stage to train; from 2 on, the ``[stage2]`` table applies.
        gpu: apply the ``[gpu]`` table. Mini variants ignore it.

    Returns:
        The values, with the keys ``recipe`` and ``stage`` added.

    Raises:
        ConfigError: the recipe does not exist, is not TOML, or has no later stage.
    """
    base = name.removesuffix(MINI) if name in describe_recipes() else name
    values = _parse(name, _read(name, base))
    mini, later, on_gpu = (_pop_table(name, values, table) for table in ("mini", "stage2", "gpu"))
    if stage > 1:
        values, mini = _later_stage(name, values, later)
        on_gpu = _pop_table(name, values, "gpu")
    if gpu and base == name:
        values = merge_tables(values, on_gpu or {})
    if base != name:
        values = _mini_variant(values, {} if mini is None else mini, stage)
    return {**values, "recipe": name, "stage": stage}


def _read(name: str, base: str) -> str:
    """Read the built-in recipe `base`, or else the file `name`."""
    if base in _built_in():
        return _built_in()[base]
    path = Path(name).expanduser()
    if not path.is_file():
        raise ConfigError(
            f"Unknown recipe {name!r}.{suggest(name, describe_recipes())} For a recipe of your own, use "
            "`recipe=FILE.toml`."
        )
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"Recipe {name} is not a text file in UTF-8 ({error}); save it as UTF-8.") from error


def _parse(name: str, text: str) -> dict[str, Any]:
    """Parse the text of a recipe; raise ConfigError if it is not TOML."""
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"Recipe {name} is not TOML: {error}.") from error


def _pop_table(name: str, values: dict[str, Any], table: str) -> dict[str, Any] | None:
    """Remove a table from a recipe's values and return it; None if the recipe has none."""
    content: dict[str, Any] | None = values.pop(table, None)
    if content is not None and not isinstance(content, Mapping):
        raise ConfigError(f"Recipe {name}: {table} = {content!r} should be a table, as in [{table}.train].")
    return content


def _later_stage(
    name: str, values: dict[str, Any], later: dict[str, Any] | None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the values of a recipe's later stage and its ``[stage2.mini]`` table."""
    if later is None:
        with_later_stage = [recipe for recipe, text in _built_in().items() if "stage2" in tomllib.loads(text)]
        raise ConfigError(
            f"Recipe {name} has no later stage: a [stage2] table is missing. Use `recipe=NAME` with one of "
            f"{', '.join(with_later_stage)}."
        )
    mini = later.pop("mini", {})
    values = merge_tables(values, later)
    train = values.get("train")
    # without its own load_size, a later stage crops by the same share as the previous stage
    if isinstance(train, dict) and "load_size" not in (later.get("train") or {}):
        train.pop("load_size", None)
    return values, mini


def _mini_variant(values: dict[str, Any], mini: Mapping[str, Any], stage: int) -> dict[str, Any]:
    """Apply `derive_mini`, then the ``mini`` table; in Stage-I, prepare images 1/32 larger than the crop."""
    values = merge_tables(derive_mini(values), mini)
    if stage == 1:
        resolution = registry.get_value("generator", values["generator"], "resolution") or 64
        values["train"] = {**values["train"], "load_size": round(resolution * 33 / 32)}
    return values

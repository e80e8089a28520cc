"""``stackflower ls``: list parts, recipes and shipped models without importing torch."""

from __future__ import annotations

import ast
import importlib.util
from pathlib import Path

import click

from stackflower import registry
from stackflower.commands.console import Command, show
from stackflower.commands.options import json_option
from stackflower.errors import ConfigError
from stackflower.models.finding import list_shipped
from stackflower.options import suggest
from stackflower.recipes.load import describe_recipes
from stackflower.registry import Entry


@click.command(cls=Command)
@click.argument("kind", required=False)
@json_option
def ls(kind: str | None, as_json: bool) -> None:
    """List the parts of each kind, the recipes and the shipped models, or those of one KIND."""
    rows = list_rows(kind)
    show({"parts": rows}, as_json, lambda: format_table(rows))


def read_summary(entry: Entry) -> str:
    """Read the first line of a part's docstring from its source; only the parent package is imported."""
    module, _, name = entry.target.partition(":")
    try:
        spec = importlib.util.find_spec(module)
        tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8")) if spec and spec.origin else ast.parse("")
    except Exception as error:  # a broken distribution must not break the list
        return f"(can't be read: {error})"
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            return (ast.get_docstring(node) or "").partition("\n")[0]
    return ""


def list_rows(kind: str | None) -> list[dict[str, str]]:
    """List parts and recipes.

    Args:
        kind: kind of part, "recipe" or "model"; None: all.

    Returns:
        One row per part, recipe or model, with kind, name, distribution and description.
    """
    kinds = [*registry.KINDS, "recipe", "model"]
    kind = "model" if kind == "models" else kind
    if kind is not None and kind not in kinds:
        raise ConfigError(f"Unknown kind {kind!r}.{suggest(kind, kinds)}")
    rows = [
        {"kind": entry.kind, "name": entry.name, "from": entry.owner, "description": read_summary(entry)}
        for entry in (registry.list_entries(kind) if kind not in ("recipe", "model") else [])
    ]
    if kind in (None, "recipe"):
        rows += [
            {"kind": "recipe", "name": name, "from": "stackflower", "description": text}
            for name, text in describe_recipes().items()
        ]
    if kind in (None, "model"):
        rows += [
            {"kind": "model", "name": name, "from": "stackflower", "description": model.describe()}
            for name, model in list_shipped().items()
        ]
    return rows


def format_table(rows: list[dict[str, str]]) -> str:
    """Format rows as aligned columns."""
    widths = [max((len(row[key]) for row in rows), default=0) for key in ("kind", "name", "from")]
    return "\n".join(
        f"{row['kind']:<{widths[0]}}  {row['name']:<{widths[1]}}  {row['from']:<{widths[2]}}  {row['description']}"
        for row in rows
    )

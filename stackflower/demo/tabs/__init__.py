"""Tabs of the demo: each module in this package defines one as ``tab``."""

from __future__ import annotations

import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from stackflower.demo.models import Models
from stackflower.demo.requests import FormatCommand


@dataclass(frozen=True)
class Context:
    """What a tab works with.

    Args:
        models: models of the demo.
        folder: folder of the files that the demo offers to download.
        format_command: function that formats the command that reproduces a request.
    """

    models: Models
    folder: Path
    format_command: FormatCommand


@dataclass(frozen=True)
class Tab:
    """A tab of the demo.

    Args:
        title: title of the tab.
        order: position among the tabs.
        build: function that adds the tab's controls, inside of ``gradio.Tab``.
    """

    title: str
    order: int
    build: Callable[[Context], None]


def list_tabs() -> list[Tab]:
    """Return the tabs of all modules in this package, in their order."""
    modules = [import_module(f"{__name__}.{module.name}") for module in pkgutil.iter_modules(__path__)]
    return sorted((module.tab for module in modules), key=lambda tab: tab.order)

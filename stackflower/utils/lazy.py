"""Lazy re-export of a package's parts and base classes: a module is imported when one of its classes is used."""

from __future__ import annotations

import ast
from collections.abc import Callable
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

BASE_MODULES = ("base", "source")


def export_classes(package: str, file: str) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Build the ``__getattr__`` and ``__dir__`` of a package that re-exports its registered parts and base classes.

    A new module is exported without an edit, and importing the package imports none of its modules. Base classes are
    the classes of the modules ``base.py`` and ``source.py``.

    Args:
        package: ``__name__`` of the package.
        file: ``__file__`` of the package.

    Returns:
        Two functions, to assign to ``__getattr__`` and ``__dir__``.
    """

    @cache
    def find_classes() -> dict[str, str]:
        """Map each public class to its module, which is parsed, not imported."""
        root = Path(file).parent
        modules: dict[str, str] = {}
        for path in sorted(root.rglob("*.py")):
            if path.name == "__init__.py":
                continue
            module = ".".join((package, *path.relative_to(root).with_suffix("").parts))
            source = path.read_text(encoding="utf-8")
            for node in ast.parse(source).body if path.stem in BASE_MODULES or "@register(" in source else ():
                if isinstance(node, ast.ClassDef) and (path.stem in BASE_MODULES or _is_part(node)):
                    modules.setdefault(node.name, module)
        return modules

    def get_attribute(name: str) -> Any:
        module = None if name.startswith("_") else find_classes().get(name)
        if module is None:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(module), name)

    return get_attribute, lambda: sorted(find_classes())


def _is_part(node: ast.ClassDef) -> bool:
    """Return whether a class is decorated by ``@register(…)``."""
    calls = [decorator.func for decorator in node.decorator_list if isinstance(decorator, ast.Call)]
    return any(isinstance(function, ast.Name) and function.id == "register" for function in calls)

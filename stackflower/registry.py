"""Names to classes, by kind: Stackflower's own parts and, by entry points, those of other distributions.

A part is one class in one file under a decorator::

    @register("discriminator", "patch")
    class PatchDiscriminator(Discriminator): ...

Its options are the constructor's keyword parameters, their allowed values given by the annotations (see
`stackflower.options`). Parameters that the builder supplies (the `context` of the kind, such as `text_dim`) are not
options. Stackflower's own parts are found by parsing the package's source for the decorator, others by the entry points
of installed distributions (group ``stackflower.components``, ``<kind>.<name> = module:Class``), so listing names
imports nothing; a part is imported when it is used.
"""

from __future__ import annotations

import ast
import importlib
import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

from stackflower.declarations import Declaration
from stackflower.errors import ComponentError, StackflowerError
from stackflower.options import problem, suggest

GROUP = "stackflower.components"
T = TypeVar("T", bound=type)


@dataclass(frozen=True)
class Kind:
    """A kind of part: its base class (imported late) and the parameters that the builder, not the user, supplies."""

    base: str
    context: tuple[str, ...] = ()


KINDS: dict[str, Kind] = {
    "data": Kind("stackflower.data.source:Source"),
    "text": Kind("stackflower.text.base:TextEncoder"),
    "features": Kind("stackflower.features.base:Features"),
    "conditioning": Kind("stackflower.stages.base:Conditioning", ("text_dim",)),
    "generator": Kind("stackflower.stages.base:Generator", ("condition_dim", "previous_resolution")),
    "discriminator": Kind(
        "stackflower.stages.base:Discriminator", ("text_dim", "condition_dim", "resolution", "features")
    ),
    "augmentation": Kind("stackflower.augmentations.base:Augmentation"),
    "objective": Kind("stackflower.objectives.base:Objective"),
    "penalty": Kind("stackflower.penalties.base:Penalty", ("features",)),
    "extractor": Kind("stackflower.evaluation.extractors.base:Extractor"),
    "metric": Kind("stackflower.evaluation.metrics.base:Metric"),
}


@dataclass(frozen=True)
class Entry:
    """A named part: its class as ``module:Class``, and the distribution it comes with."""

    kind: str
    name: str
    target: str
    owner: str


_registered: dict[tuple[str, str], Entry] = {}
_classes: dict[tuple[str, str], type] = {}


def _import(target: str) -> Any:
    module, _, attribute = target.partition(":")
    return getattr(importlib.import_module(module), attribute)


def _check_kind(kind: str) -> Kind:
    if kind not in KINDS:
        raise ComponentError(f"There is no kind of part called {kind!r}. The kinds are: {', '.join(KINDS)}.")
    return KINDS[kind]


def register(kind: str, name: str) -> Callable[[T], T]:
    """Class decorator that gives `cls` the name `name` among the parts of `kind`.

    ComponentError for an unknown kind, a class that is not derived from the kind's base class, and a name that is taken
    (both owners are named).
    """
    spec = _check_kind(kind)

    def decorate(cls: T) -> T:
        base = _import(spec.base)
        if not (isinstance(cls, type) and issubclass(cls, base)):
            raise ComponentError(f"{kind} {name!r}: {cls.__module__}.{cls.__qualname__} must derive from {spec.base}.")
        entry = Entry(kind, name, f"{cls.__module__}:{cls.__qualname__}", cls.__module__.partition(".")[0])
        known = _find(kind, name)
        if known is not None and known.target != entry.target:
            raise ComponentError(
                f"{kind} {name!r} is already {known.target} (from {known.owner}); {entry.target} needs another name."
            )
        _registered[kind, name] = known or entry
        _classes[kind, name] = cls
        return cls

    return decorate


@cache
def _own_parts() -> dict[tuple[str, str], Entry]:
    """Stackflower's own parts, from its source files: every class decorated by ``@register("kind", "name")``."""
    root = Path(__file__).parent
    found: dict[tuple[str, str], Entry] = {}
    for path in sorted(root.rglob("*.py")):
        source = path.read_text(encoding="utf-8")
        if "@register(" not in source or path == Path(__file__):
            continue
        module = ".".join(("stackflower", *path.relative_to(root).with_suffix("").parts))
        for node in ast.parse(source).body:
            if not isinstance(node, ast.ClassDef):
                continue
            for decorator in node.decorator_list:
                if isinstance(decorator, ast.Call) and getattr(decorator.func, "id", "") == "register":
                    kind, name = (ast.literal_eval(argument) for argument in decorator.args)
                    found[kind, name] = Entry(kind, name, f"{module}:{node.name}", "stackflower")
    return found


@cache
def _entry_point_parts() -> dict[tuple[str, str], Entry]:
    """Parts of other distributions, from the entry points of those that are installed."""
    found: dict[tuple[str, str], Entry] = {}
    for point in metadata.entry_points(group=GROUP):
        kind, _, name = point.name.partition(".")
        owner = point.dist.name if point.dist else point.module
        entry = Entry(kind, name, point.value, owner)
        taken = found.get((kind, name)) or _own_parts().get((kind, name))
        if taken is not None and taken.target != entry.target:
            raise ComponentError(
                f"{kind} {name!r} comes with two distributions, {taken.owner} ({taken.target}) and "
                f"{owner} ({point.value}); uninstall one of them."
            )
        found[kind, name] = entry
    return found


def _find(kind: str, name: str) -> Entry | None:
    return _own_parts().get((kind, name)) or _entry_point_parts().get((kind, name)) or _registered.get((kind, name))


def entries(kind: str | None = None) -> list[Entry]:
    """All parts, or those of a kind, sorted by kind and name; imports nothing."""
    if kind is not None:
        _check_kind(kind)
    known = {**_registered, **_entry_point_parts(), **_own_parts()}
    order = {name: position for position, name in enumerate(KINDS)}
    return sorted(
        (entry for entry in known.values() if kind in (None, entry.kind)),
        key=lambda entry: (order.get(entry.kind, len(order)), entry.name),
    )


def list_parts(kind: str) -> list[str]:
    """List the names of a kind's parts, without importing them.

    Args:
        kind: kind of part, such as "discriminator".

    Returns:
        The names, sorted.

    Raises:
        ComponentError: the kind is unknown; the message lists all kinds.

    Example:
        >>> list_parts("conditioning")
        ['augmentation', 'projection']
    """
    return [entry.name for entry in entries(kind)]


def get(kind: str, name: str) -> type:
    """Import and return the class of a part.

    Raises:
        ComponentError: the name is unknown, or the import fails.
    """
    _check_kind(kind)
    entry = _find(kind, name)
    if entry is None:
        raise ComponentError(f"There is no {kind} called {name!r}.{suggest(name, list_parts(kind))}")
    if (kind, name) not in _classes:
        try:
            cls = _import(entry.target)
        except Exception as error:  # a broken module may raise anything
            raise ComponentError(
                f"{kind} {name!r} from distribution {entry.owner!r} ({entry.target}) does not import: {error}"
            ) from error
        base = _import(KINDS[kind].base)
        if not (isinstance(cls, type) and issubclass(cls, base)):
            raise ComponentError(f"{kind} {name!r} from {entry.owner!r}: {entry.target} is not a {KINDS[kind].base}.")
        _classes[kind, name] = cls
    return _classes[kind, name]


def options(kind: str, name: str) -> dict[str, inspect.Parameter]:
    """Return the options of a part: its constructor's keyword parameters, without those that the builder supplies."""
    parameters = inspect.signature(get(kind, name), eval_str=True).parameters
    return {
        key: parameter
        for key, parameter in parameters.items()
        if key not in KINDS[kind].context
        and parameter.kind in (parameter.KEYWORD_ONLY, parameter.POSITIONAL_OR_KEYWORD)
    }


def complete(kind: str, name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the given options with the defaults of the rest, as plain values.

    Raises:
        ComponentError: the part is unknown or does not import.
    """
    defaults = {key: each.default for key, each in options(kind, name).items() if each.default is not each.empty}
    return {**{key: list(each) if isinstance(each, tuple) else each for key, each in defaults.items()}, **given}


def declarations(parts: Iterable[tuple[str, Mapping[str, Any]]]) -> tuple[list[Declaration], set[str]]:
    """Return what parts declare, with the values of all their options, and the kinds of parts that are unknown.

    Args:
        parts: kind and plain values of each: its name, and options, of which the rest have their defaults.
    """
    known, unknown = [], set()
    for kind, values in parts:
        try:
            name, given = values["name"], {key: each for key, each in values.items() if key != "name"}
            cls: Any = get(kind, name)
            given = complete(kind, name, given)
            known.append(Declaration(kind, name, given, cls.requires, cls.brings, cls.offers))
        except (ComponentError, KeyError, TypeError):  # `check` says what is wrong
            unknown.add(kind)
    return known, unknown


def value(kind: str, part: Mapping[str, Any], option: str) -> Any:
    """Return the value of an option in a part's plain values, or its default; None for an unknown part or option."""
    try:
        known = options(kind, str(part.get("name")))
    except ComponentError:
        return None
    return part.get(option, known[option].default) if option in known else None


def check(kind: str, name: str, given: Mapping[str, Any]) -> list[str]:
    """Everything that is wrong with the options `given` for a part, a sentence each; builds nothing."""
    try:
        allowed = options(kind, name)
    except ComponentError as error:
        return [str(error)]
    problems = []
    for key, value in given.items():
        if key not in allowed:
            problems.append(f"{kind} {name!r} has no option {key!r}.{suggest(key, allowed)}")
        elif message := problem(value, allowed[key].annotation):
            problems.append(f"{kind}.{key} = {value!r}: {message[:-1]} (part {name!r}).")
    for key, parameter in allowed.items():
        if parameter.default is parameter.empty and key not in given:
            problems.append(f"{kind} {name!r} needs its option {key!r}: `{kind}.{key}=…`")
    return problems


def create(kind: str, name: str, /, **arguments: Any) -> Any:
    """Build a part.

    Args:
        kind: kind of part, such as "discriminator".
        name: name of the part.
        arguments: the part's options, and the parameters that the builder supplies for its kind, such as `text_dim`.

    Returns:
        The part.

    Raises:
        ComponentError: a list of all wrong options, or the part can't be built.

    Example:
        >>> create("objective", "hinge").mismatched
        True
    """
    context = {key: value for key, value in arguments.items() if key in KINDS[kind].context}
    given = {key: value for key, value in arguments.items() if key not in context}
    problems = check(kind, name, given)
    if problems:
        raise ComponentError("\n".join(problems))
    given = {key: tuple(value) if isinstance(value, list) else value for key, value in given.items()}
    parameters = inspect.signature(get(kind, name)).parameters  # a part need not take all of the kind's context
    cls = get(kind, name)
    try:
        return cls(**{key: value for key, value in context.items() if key in parameters}, **given)
    except StackflowerError:
        raise
    except Exception as error:  # a part's constructor may raise anything
        raise ComponentError(
            f"{kind} {name!r} ({cls.__module__}.{cls.__qualname__}) can't be built: {error}"
        ) from error

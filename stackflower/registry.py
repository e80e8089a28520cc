"""Names to classes, by kind: Stackflower's own parts and, through entry points, anyone's.

A part is one class in one file under a decorator::

    @register("discriminator", "patch")
    class PatchDiscriminator(Discriminator): ...

Its options are the constructor's keyword parameters, with the numbers they allow in their annotations (`ranges`); what the
builder supplies (the `context` of the kind, such as `text_dim`) is not an option. Our own parts are found by reading the package's source for the decorator, third
parties' by their distribution's entry points (group ``stackflower.components``, ``<kind>.<name> = module:Class``):
listing names imports nothing, and a part is imported when it is first asked for.
"""

from __future__ import annotations

import ast
import difflib
import importlib
import inspect
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, TypeVar

from stackflower import options as ranges
from stackflower.errors import ComponentError, StackflowerError

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
    "conditioning": Kind("stackflower.stages.base:Conditioning", ("text_dim",)),
    "generator": Kind("stackflower.stages.base:Generator", ("condition_dim", "lower_resolution")),
    "discriminator": Kind("stackflower.stages.base:Discriminator", ("text_dim", "condition_dim", "resolution")),
    "objective": Kind("stackflower.objectives.base:Objective"),
    "penalty": Kind("stackflower.penalties.base:Penalty"),
    "extractor": Kind("stackflower.evaluation.extractors.base:Extractor"),
}


@dataclass(frozen=True)
class Entry:
    """Where a named part lives: ``module:Class`` and the distribution that brings it."""

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

    Raises ComponentError for an unknown kind, a class that is not the kind's base class, and a name that is taken
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
def _own() -> dict[tuple[str, str], Entry]:
    """Our own parts, read off the source files: every class under ``@register("kind", "name")``."""
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
            for mark in node.decorator_list:
                if isinstance(mark, ast.Call) and getattr(mark.func, "id", "") == "register":
                    kind, name = (ast.literal_eval(argument) for argument in mark.args)
                    found[kind, name] = Entry(kind, name, f"{module}:{node.name}", "stackflower")
    return found


@cache
def _plugged() -> dict[tuple[str, str], Entry]:
    """Third parties' parts, from the entry points of installed distributions."""
    found: dict[tuple[str, str], Entry] = {}
    for point in metadata.entry_points(group=GROUP):
        kind, _, name = point.name.partition(".")
        owner = point.dist.name if point.dist else point.module
        entry = Entry(kind, name, point.value, owner)
        taken = found.get((kind, name)) or _own().get((kind, name))
        if taken is not None and taken.target != entry.target:
            raise ComponentError(
                f"{kind} {name!r} is brought by two distributions, {taken.owner} ({taken.target}) and "
                f"{owner} ({point.value}); uninstall one of them."
            )
        found[kind, name] = entry
    return found


def _find(kind: str, name: str) -> Entry | None:
    return _own().get((kind, name)) or _plugged().get((kind, name)) or _registered.get((kind, name))


def entries(kind: str | None = None) -> list[Entry]:
    """Every known part (of one kind), sorted; imports nothing."""
    if kind is not None:
        _check_kind(kind)
    known = {**_registered, **_plugged(), **_own()}
    order = {name: position for position, name in enumerate(KINDS)}
    return sorted(
        (entry for entry in known.values() if kind in (None, entry.kind)),
        key=lambda entry: (order.get(entry.kind, len(order)), entry.name),
    )


def names(kind: str) -> list[str]:
    """The names of a kind's parts; imports nothing."""
    return [entry.name for entry in entries(kind)]


def suggest(given: str, allowed: typing.Iterable[str]) -> str:
    """The end of an error sentence: the nearest allowed word, if any, and all of them."""
    allowed = list(allowed)
    near = difflib.get_close_matches(given, allowed, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return f"{hint} Allowed: {', '.join(allowed) or 'none'}."


def get(kind: str, name: str) -> type:
    """The class behind a name, imported now. ComponentError if there is none or its distribution is broken."""
    _check_kind(kind)
    entry = _find(kind, name)
    if entry is None:
        raise ComponentError(f"There is no {kind} called {name!r}.{suggest(name, names(kind))}")
    if (kind, name) not in _classes:
        try:
            cls = _import(entry.target)
        except Exception as error:  # whatever a broken module raises
            raise ComponentError(
                f"{kind} {name!r} from distribution {entry.owner!r} ({entry.target}) does not import: {error}"
            ) from error
        base = _import(KINDS[kind].base)
        if not (isinstance(cls, type) and issubclass(cls, base)):
            raise ComponentError(f"{kind} {name!r} from {entry.owner!r}: {entry.target} is not a {KINDS[kind].base}.")
        _classes[kind, name] = cls
    return _classes[kind, name]


def options(kind: str, name: str) -> dict[str, inspect.Parameter]:
    """The options of a part: its constructor's keyword parameters less the kind's context."""
    parameters = inspect.signature(get(kind, name), eval_str=True).parameters
    return {
        key: parameter
        for key, parameter in parameters.items()
        if key not in KINDS[kind].context
        and parameter.kind in (parameter.KEYWORD_ONLY, parameter.POSITIONAL_OR_KEYWORD)
    }


def value(kind: str, part: Mapping[str, Any], option: str) -> Any:
    """An option of a part's plain values, or its default; None where the part has none or is unknown, which `check` tells."""
    try:
        known = options(kind, str(part.get("name")))
    except ComponentError:
        return None
    return part.get(option, known[option].default) if option in known else None


def fits(value: Any, wanted: Any) -> bool:
    """Whether a plain value (from TOML, JSON or the command line) may stand where `wanted` is annotated."""
    wanted = ranges.plain(wanted)
    origin, arguments = typing.get_origin(wanted), typing.get_args(wanted)
    if wanted in (Any, inspect.Parameter.empty):
        return True
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, choice) for choice in arguments)
    if origin is Literal:
        return value in arguments
    if wanted is None or wanted is type(None):
        return value is None
    if wanted is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if wanted is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if origin in (tuple, list) and isinstance(value, (tuple, list)):
        inner = [argument for argument in arguments if argument is not Ellipsis]
        return (
            all(fits(item, inner[0]) for item in value)
            if len(inner) == 1 or Ellipsis in arguments
            else (len(value) == len(inner) and all(map(fits, value, inner)))
        )
    return isinstance(value, origin or wanted) if isinstance(origin or wanted, type) else True


def describe(annotation: Any) -> str:
    """An annotation as a person reads it: ``int``, ``float | None``, ``one of 'a', 'b'``."""
    annotation = ranges.plain(annotation)
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return " | ".join(
            "None" if choice is type(None) else describe(choice) for choice in typing.get_args(annotation)
        )
    if typing.get_origin(annotation) is Literal:
        return "one of " + ", ".join(repr(choice) for choice in typing.get_args(annotation))
    return annotation.__name__ if isinstance(annotation, type) else str(annotation).replace("typing.", "")


def check(kind: str, name: str, given: Mapping[str, Any]) -> list[str]:
    """Everything wrong with calling part `name` with the options `given`, a sentence each; builds nothing."""
    try:
        allowed = options(kind, name)
    except ComponentError as error:
        return [str(error)]
    problems = []
    for key, value in given.items():
        if key not in allowed:
            problems.append(f"{kind} {name!r} has no option {key!r}.{suggest(key, allowed)}")
        elif not fits(value, allowed[key].annotation):
            problems.append(f"{kind}.{key} = {value!r}: wanted {describe(allowed[key].annotation)} (part {name!r}).")
        elif wrong := ranges.out_of_range(value, allowed[key].annotation):
            problems.append(f"{kind}.{key} = {value}: {wrong[:-1]} (part {name!r}).")
    for key, parameter in allowed.items():
        if parameter.default is parameter.empty and key not in given:
            problems.append(f"{kind} {name!r} needs its option {key!r}: --set {kind}.{key}=…")
    return problems


def create(kind: str, name: str, /, **arguments: Any) -> Any:
    """Build part `name`; options and the kind's context are keyword arguments, all checked before anything is built."""
    context = {key: value for key, value in arguments.items() if key in KINDS[kind].context}
    given = {key: value for key, value in arguments.items() if key not in context}
    problems = check(kind, name, given)
    if problems:
        raise ComponentError("\n".join(problems))
    given = {key: tuple(value) if isinstance(value, list) else value for key, value in given.items()}
    wanted = inspect.signature(get(kind, name)).parameters  # a part need not take all that its kind is offered
    cls = get(kind, name)
    try:
        return cls(**{key: value for key, value in context.items() if key in wanted}, **given)
    except StackflowerError:
        raise
    except Exception as error:  # somebody's constructor: name it, whatever it raises
        raise ComponentError(
            f"{kind} {name!r} ({cls.__module__}.{cls.__qualname__}) can't be built: {error}"
        ) from error

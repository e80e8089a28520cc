"""The registry of parts: classes by kind and name, from Stackflower and from other installed distributions.

A part is one class in one file under a decorator::

    @register("discriminator", "patch")
    class PatchDiscriminator(Discriminator): ...

The part's options are the keyword parameters of its constructor, and the annotations state the allowed values (see
`stackflower.options`). Parameters that the builder supplies are not options; they are the `context` of the kind, such
as `text_dim`.

Stackflower's own parts are found by parsing the package's source for the decorator. Parts of other distributions are
found by entry points of the group ``stackflower.components``, written as ``<kind>.<name> = module:Class``. Listing
names therefore imports nothing; a part is imported when it is used.
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
from types import MappingProxyType
from typing import Any, TypeVar

from stackflower.declarations import Declaration
from stackflower.errors import ComponentError, StackflowerError
from stackflower.options import describe_problem, describe_value, suggest

ENTRY_POINT_GROUP = "stackflower.components"
T = TypeVar("T", bound=type)


@dataclass(frozen=True)
class Kind:
    """A kind of part.

    Args:
        base: base class, as ``module:Class``; imported when a part of the kind is.
        context: parameters that the builder supplies, not the user.
    """

    base: str
    context: tuple[str, ...] = ()


KINDS: dict[str, Kind] = {
    "data": Kind("stackflower.data.source:Source"),
    "text": Kind("stackflower.text.base:TextEncoder"),
    "features": Kind("stackflower.features.base:Features"),
    "conditioning": Kind("stackflower.stages.base:Conditioning", ("text_dim",)),
    "generator": Kind("stackflower.stages.base:Generator", ("condition_dim", "word_dim", "previous_resolution")),
    "discriminator": Kind(
        "stackflower.stages.base:Discriminator", ("text_dim", "condition_dim", "word_dim", "resolution", "features")
    ),
    "augmentation": Kind("stackflower.augmentations.base:Augmentation"),
    "objective": Kind("stackflower.objectives.base:Objective"),
    "penalty": Kind("stackflower.penalties.base:Penalty", ("features", "text_folder")),
    "extractor": Kind("stackflower.evaluation.extractors.base:Extractor"),
    "metric": Kind("stackflower.evaluation.metrics.base:Metric"),
}


@dataclass(frozen=True)
class Entry:
    """A registered part.

    Args:
        kind: kind of part.
        name: name of the part.
        target: class, as ``module:Class``.
        owner: distribution that contains the class.
    """

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
        raise ComponentError(f"Unknown kind of part {kind!r}. Allowed: {', '.join(KINDS)}.")
    return KINDS[kind]


def register(kind: str, name: str) -> Callable[[T], T]:
    """Register the decorated class as a part.

    Args:
        kind: kind of part, such as "discriminator".
        name: name of the part, unique within its kind.

    Returns:
        A class decorator that returns the class unchanged.

    Raises:
        ComponentError: the kind is unknown. The decorator raises it if the class does not derive from the kind's base
            class, or if the name belongs to another class.

    Example:
        >>> from stackflower.objectives.hinge import Hinge
        >>> @register("objective", "my-hinge")
        ... class MyHinge(Hinge):
        ...     pass
        >>> type(create("objective", "my-hinge")).__name__
        'MyHinge'
    """
    spec = _check_kind(kind)

    def decorate(cls: T) -> T:
        base = _import(spec.base)
        if not (isinstance(cls, type) and issubclass(cls, base)):
            raise ComponentError(f"{kind} {name!r}: {cls.__module__}.{cls.__qualname__} must derive from {spec.base}.")
        entry = Entry(kind, name, f"{cls.__module__}:{cls.__qualname__}", cls.__module__.partition(".")[0])
        earlier = _find(kind, name)
        if earlier is not None and earlier.target != entry.target:
            raise ComponentError(
                f"{kind} {name!r} is already registered as {earlier.target} (from {earlier.owner}); {entry.target} "
                "needs another name."
            )
        _registered[kind, name] = earlier or entry
        _classes[kind, name] = cls
        return cls

    return decorate


@cache
def _find_own_parts() -> dict[tuple[str, str], Entry]:
    """Find every class in Stackflower's source that is decorated by ``@register("kind", "name")``."""
    root = Path(__file__).parent
    parts: dict[tuple[str, str], Entry] = {}
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
                    parts[kind, name] = Entry(kind, name, f"{module}:{node.name}", "stackflower")
    return parts


@cache
def _find_entry_points() -> dict[tuple[str, str], Entry]:
    """Find the parts of other installed distributions by their entry points."""
    parts: dict[tuple[str, str], Entry] = {}
    for point in metadata.entry_points(group=ENTRY_POINT_GROUP):
        kind, _, name = point.name.partition(".")
        owner = point.dist.name if point.dist else point.module
        entry = Entry(kind, name, point.value, owner)
        earlier = parts.get((kind, name)) or _find_own_parts().get((kind, name))
        if earlier is not None and earlier.target != entry.target:
            raise ComponentError(
                f"Two distributions define {kind} {name!r}: {earlier.owner} ({earlier.target}) and "
                f"{owner} ({point.value}); uninstall one or the other."
            )
        parts[kind, name] = entry
    return parts


def _find(kind: str, name: str) -> Entry | None:
    return (
        _find_own_parts().get((kind, name)) or _find_entry_points().get((kind, name)) or _registered.get((kind, name))
    )


def list_entries(kind: str | None = None) -> list[Entry]:
    """List all parts, or those of one kind, without importing them.

    Args:
        kind: kind of part; None: every kind.

    Returns:
        The entries, sorted by kind and name.

    Raises:
        ComponentError: the kind is unknown, or two distributions define the same part.
    """
    if kind is not None:
        _check_kind(kind)
    parts = {**_registered, **_find_entry_points(), **_find_own_parts()}
    order = {name: position for position, name in enumerate(KINDS)}
    return sorted(
        (entry for entry in parts.values() if kind in (None, entry.kind)),
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
    return [entry.name for entry in list_entries(kind)]


def get(kind: str, name: str) -> type:
    """Import and return the class of a part.

    Args:
        kind: kind of part.
        name: name of the part.

    Raises:
        ComponentError: the kind or name is unknown, the import fails, or the class does not derive from the kind's base
            class.
    """
    _check_kind(kind)
    entry = _find(kind, name)
    if entry is None:
        raise ComponentError(f"Unknown {kind} {name!r}.{suggest(name, list_parts(kind))}")
    if (kind, name) not in _classes:
        try:
            cls = _import(entry.target)
        except Exception as error:  # a broken module may raise anything
            raise ComponentError(
                f"{kind} {name!r} from distribution {entry.owner!r} ({entry.target}) can't be imported: {error}"
            ) from error
        base = _import(KINDS[kind].base)
        if not (isinstance(cls, type) and issubclass(cls, base)):
            raise ComponentError(
                f"{kind} {name!r} from distribution {entry.owner!r}: {entry.target} must derive from "
                f"{KINDS[kind].base}."
            )
        _classes[kind, name] = cls
    return _classes[kind, name]


def find_name(kind: str, cls: type) -> str:
    """Return the name of a part's class; the name of the class itself if it is not registered.

    Args:
        kind: kind of the part.
        cls: class of the part.
    """
    return next((name for (known, name), part in _classes.items() if known == kind and part is cls), cls.__name__)


def get_options(kind: str, name: str) -> dict[str, inspect.Parameter]:
    """Return the options of a part: its constructor's keyword parameters, without those that the builder supplies.

    Args:
        kind: kind of part.
        name: name of the part.

    Returns:
        The parameters by name, with annotations and defaults.

    Raises:
        ComponentError: the part is unknown or can't be imported.
    """
    parameters = inspect.signature(get(kind, name), eval_str=True).parameters
    return {
        key: parameter
        for key, parameter in parameters.items()
        if key not in KINDS[kind].context
        and parameter.kind in (parameter.KEYWORD_ONLY, parameter.POSITIONAL_OR_KEYWORD)
    }


def complete_options(kind: str, name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Add the defaults of all options that are not set.

    Args:
        kind: kind of part.
        name: name of the part.
        options: values by option.

    Returns:
        The values of all options that have one, with lists in place of tuples in defaults.

    Raises:
        ComponentError: the part is unknown or can't be imported.
    """
    defaults = {key: item.default for key, item in get_options(kind, name).items() if item.default is not item.empty}
    return {**{key: list(value) if isinstance(value, tuple) else value for key, value in defaults.items()}, **options}


def read_declarations(parts: Iterable[tuple[str, Mapping[str, Any]]]) -> tuple[list[Declaration], set[str]]:
    """Read what parts declare, together with the values of all their options.

    Args:
        parts: kind and plain values of each part: its name, and the options that are set.

    Returns:
        The declarations, and the kinds whose part is unknown.
    """
    declarations, unknown = [], set()
    for kind, values in parts:
        try:
            name, options = values["name"], {key: value for key, value in values.items() if key != "name"}
            cls: Any = get(kind, name)
            options = complete_options(kind, name, options)
            declarations.append(Declaration(kind, name, options, cls.requires, cls.brings, cls.offers))
        except (ComponentError, KeyError, TypeError):  # `check` reports it
            unknown.add(kind)
    return declarations, unknown


def get_value(kind: str, part: Mapping[str, Any], option: str) -> Any:
    """Return the value of an option.

    Args:
        kind: kind of part.
        part: plain values of the part: its name, and the options that are set.
        option: name of the option.

    Returns:
        The value that is set, or the option's default; None if the part or the option is unknown.
    """
    try:
        options = get_options(kind, str(part.get("name")))
    except ComponentError:
        return None
    return part.get(option, options[option].default) if option in options else None


def check(
    kind: str, name: str, options: Mapping[str, Any], parameters: Mapping[str, str] = MappingProxyType({})
) -> list[str]:
    """Check the options of a part without building it.

    Args:
        kind: kind of part.
        name: name of the part.
        options: values by option.
        parameters: parameters that the caller gave, as of `describe_value`.

    Returns:
        A sentence for each mistake.
    """
    try:
        allowed = get_options(kind, name)
    except ComponentError as error:
        return [str(error)]
    problems = []
    table = f"penalties.{name}" if kind == "penalty" else kind
    for key, value in options.items():
        if key not in allowed:
            problems.append(f"{kind} {name!r} has no option {key!r}.{suggest(key, allowed)}")
        elif message := describe_problem(value, allowed[key].annotation):
            problems.append(f"{describe_value(f'{table}.{key}', value, parameters)}: {message[:-1]} (part {name!r}).")
    for key, parameter in allowed.items():
        if parameter.default is parameter.empty and key not in options:
            problems.append(f"{kind} {name!r} requires the option {key!r}: set `{table}.{key}=…`.")
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
        ComponentError: the part is unknown, its options are wrong (the message lists every mistake), or its constructor
            fails.

    Example:
        >>> create("objective", "hinge").mismatched
        True
    """
    context = {key: value for key, value in arguments.items() if key in _check_kind(kind).context}
    options = {key: value for key, value in arguments.items() if key not in context}
    problems = check(kind, name, options)
    cls = get(kind, name)
    parameters = inspect.signature(cls).parameters  # a part may take only some of the kind's context
    required = [key for key, parameter in parameters.items() if parameter.default is parameter.empty]
    missing = [key for key in KINDS[kind].context if key in required and key not in context]
    if missing:
        arguments_to_pass = ", ".join(f"{key}=…" for key in missing)
        problems.append(
            f"{kind} {name!r} can't be built without {' and '.join(missing)}: pass {arguments_to_pass} to `create`."
        )
    if problems:
        raise ComponentError("\n".join(problems))
    options = {key: tuple(value) if isinstance(value, list) else value for key, value in options.items()}
    try:
        return cls(**{key: value for key, value in context.items() if key in parameters}, **options)
    except StackflowerError:
        raise
    except Exception as error:  # a part's constructor may raise anything
        raise ComponentError(
            f"{kind} {name!r} ({cls.__module__}.{cls.__qualname__}) can't be built: {error}"
        ) from error

"""Annotations that state the values of an option, a setting or a field of a file, as in ``channels: Count = 64``.

pydantic checks them strictly: a string is not a number, ``true`` is not 1, and NaN and infinity are refused.
"""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import json
from collections.abc import Iterable, Mapping
from functools import cache
from types import MappingProxyType
from typing import Annotated, Any, TypeVar, get_type_hints

from annotated_types import Ge, Gt, Le, Lt
from pydantic import ConfigDict, TypeAdapter, ValidationError

Count = Annotated[int, Gt(0)]
BatchSize = Annotated[int, Gt(0), Le(65_536)]
Natural = Annotated[int, Ge(0), Lt(2**63)]
Seed = Annotated[int, Ge(0), Lt(2**63)]
Positive = Annotated[float, Gt(0)]
Weight = Annotated[float, Ge(0)]
"""A weight, a width or a duration; 0 turns it off."""
Share = Annotated[float, Ge(0), Le(1)]
Below1 = Annotated[float, Ge(0), Lt(1)]

T = TypeVar("T")


@cache
def _adapter(annotation: Any) -> TypeAdapter[Any]:
    return TypeAdapter(annotation, config=ConfigDict(strict=True, allow_inf_nan=False, arbitrary_types_allowed=True))


def describe_problem(value: Any, annotation: Any) -> str | None:
    """Describe what is wrong with a value, as the end of a sentence such as "it should be greater than 0.".

    Args:
        value: plain value, from TOML, JSON or the command line.
        annotation: annotation of the option or setting.

    Returns:
        The end of the sentence, or None for a value that fits.
    """
    if annotation is inspect.Parameter.empty:
        return None
    try:  # as JSON, in which a list may stand for a tuple
        _adapter(annotation).validate_json(json.dumps(value, default=str))
    except ValidationError as error:
        messages = [
            "complete" if mistake["type"] == "missing" else mistake["msg"].replace("Input should be", "").strip()
            for mistake in error.errors()
        ]
        return f"it should be {' or '.join(dict.fromkeys(messages))}."
    return None


def suggest(unknown: str, allowed: Iterable[str]) -> str:
    """Suggest names in place of an unknown one.

    Args:
        unknown: the unknown name.
        allowed: all allowed names.

    Returns:
        Sentences with the nearest allowed name, if one is near, and all allowed names. They begin with a space, to
        follow the sentence that reports the unknown name.
    """
    allowed = list(allowed)
    nearest = difflib.get_close_matches(unknown, allowed, n=1)
    hint = f" Did you mean {nearest[0]!r}?" if nearest else ""
    return f"{hint} Allowed: {', '.join(allowed) or 'none'}."


def describe_value(name: str, value: Any, parameters: Mapping[str, str]) -> str:
    """Format a refused value as the start of a sentence: `` `lr=-1` `` for a parameter, ``train.lr = -1`` in a file.

    Args:
        name: dotted name of the setting or option.
        value: its value.
        parameters: parameters that the caller gave, by the dotted names of what they set.
    """
    if name not in parameters:
        return f"{name} = {value!r}"
    is_json = value is None or isinstance(value, (bool, Mapping, list, tuple))
    return f"`{parameters[name]}={json.dumps(value, default=str) if is_json else value}`"


def read_section(
    cls: type[T],
    values: Any,
    name: str,
    problems: list[str],
    partial: bool = False,
    parameters: Mapping[str, str] = MappingProxyType({}),
) -> T | None:
    """Build a dataclass from plain values.

    Args:
        cls: the dataclass, whose annotations state the allowed values.
        values: values by field.
        name: name of the section, for messages.
        problems: list to which a sentence is added for each mistake.
        partial: use the default of each refused field instead of returning None.
        parameters: parameters that the caller gave, as of `describe_value`.

    Returns:
        The dataclass; None if the values have a mistake and `partial` is false.

    Raises:
        TypeError: `partial` is true, and a missing or refused field has no default.
    """
    hints = get_type_hints(cls, include_extras=True)
    if not isinstance(values, Mapping):
        value = describe_value(name, values, parameters)
        problems.append(f"{value}: it should be a table with {', '.join(hints)}.")
        return cls() if partial else None
    before, accepted = len(problems), {}
    problems += [f"Unknown setting {name}.{key}.{suggest(key, hints)}" for key in values if key not in hints]
    for field in dataclasses.fields(cls):  # type: ignore[arg-type]
        if field.name not in values:
            if field.default is field.default_factory is dataclasses.MISSING:
                problems.append(f"{name}.{field.name} is missing.")
        elif wrong := describe_problem(values[field.name], hints[field.name]):
            value = describe_value(f"{name}.{field.name}", values[field.name], parameters)
            problems.append(f"{value}: {wrong}")
        else:
            accepted[field.name] = values[field.name]
    return cls(**accepted) if partial or len(problems) == before else None

"""Which numbers an option or a setting allows, said in its annotation: ``channels: Count = 64``, ``dropout: Below1 = 0.0``."""

from __future__ import annotations

import math
import types
import typing
from dataclasses import dataclass
from typing import Annotated, Any


@dataclass(frozen=True)
class Range:
    """The numbers from `low` to `high`; without an end where it is marked open."""

    low: float = -math.inf
    high: float = math.inf
    open_low: bool = False
    open_high: bool = False

    def __contains__(self, value: float) -> bool:
        low = self.low < value if self.open_low else self.low <= value
        return low and (value < self.high if self.open_high else value <= self.high)

    @property
    def sentence(self) -> str:
        """What is allowed, as the end of an error sentence."""
        if self.high == math.inf:
            return f"it must be above {self.low:g}." if self.open_low else f"it must be {self.low:g} or more."
        return f"allowed is {self.low:g} {'up to, not with,' if self.open_high else 'to'} {self.high:g}."


Count = Annotated[int, Range(0, open_low=True)]
"""How many of something that there must be."""
Natural = Annotated[int, Range(0)]
"""How many of something that there need not be."""
Positive = Annotated[float, Range(0, open_low=True)]
Weight = Annotated[float, Range(0)]
"""A weight, a width, a duration: zero turns it off."""
Share = Annotated[float, Range(0, 1)]
Below1 = Annotated[float, Range(0, 1, open_high=True)]


def plain(annotation: Any) -> Any:
    """An annotation without its range."""
    return typing.get_args(annotation)[0] if typing.get_origin(annotation) is Annotated else annotation


def out_of_range(value: Any, annotation: Any) -> str | None:
    """What is wrong with a number of the right type, as the end of a sentence; None where nothing is."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    if not math.isfinite(value):
        return "it must be a finite number."
    choices = (
        typing.get_args(annotation)
        if typing.get_origin(annotation) in (typing.Union, types.UnionType)
        else (annotation,)
    )
    for choice in choices:
        for limit in getattr(choice, "__metadata__", ()):
            if isinstance(limit, Range) and value not in limit:
                return limit.sentence
    return None

"""What a part requires of the rest of a run, brings along and offers: class attributes that are read in one place.

A class states them beside its code, and `stackflower.config.requirements` applies them to a configuration::

    class GradientPenalty(Penalty):
        requires = (Requirement("logit scores", of="discriminator", why="works on logit scores, and {other} gives
        {offered}"),) offers = (Offer("bounded gradient", when={"weight": Not(0)}),)

A trait is any string: it has the meaning that its offers and requirements give it. docs/extending.md lists those in
use.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar


@dataclass(frozen=True, init=False)
class Not:
    """Match any value except these."""

    values: tuple[Any, ...]

    def __init__(self, *values: Any):
        object.__setattr__(self, "values", values)


def matches(value: Any, wanted: Any) -> bool:
    """Return whether a value is the wanted one, one of a tuple of them, or outside of a `Not`."""
    if isinstance(wanted, Not):
        return value not in wanted.values
    return value in wanted if isinstance(wanted, tuple) else bool(value == wanted)


@dataclass(frozen=True)
class Offer:
    """A trait that a part has only with certain options; a trait that it always has is a plain string.

    Args:
        trait: what other parts or settings may require.
        when: values of the part's own options, all of which must match (see `matches`).
    """

    trait: str
    when: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Requirement:
    """A trait that another chosen part must offer.

    Args:
        trait: the trait.
        of: kind of part, or several, one of whose chosen parts must offer it.
        why: rest of the sentence that begins with the part's name. ``{other}`` stands for the chosen parts that lack
            the trait, ``{offered}`` for the traits that they offer.
        when: values of the part's own options with which it applies; by default, it always does.
        dispensable: leave the part or setting out, if it came with a recipe, where this is unmet. Only for what can be
            left out: penalties, features and settings.
    """

    trait: str
    of: str | tuple[str, ...]
    why: str
    when: Mapping[str, Any] = field(default_factory=dict)
    dispensable: bool = False

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds in `of`."""
        return (self.of,) if isinstance(self.of, str) else self.of


@dataclass(frozen=True)
class SettingRequirement:
    """A value that a setting must have.

    Args:
        setting: dotted name, such as "train.interpolated".
        value: the value (see `matches`).
        why: rest of the sentence that begins with the part's name.
        when: values of the part's own options with which it applies; by default, it always does.
    """

    setting: str
    value: Any
    why: str
    when: Mapping[str, Any] = field(default_factory=dict)


Requirements = tuple[Requirement | SettingRequirement, ...]
Offers = tuple[str | Offer, ...]


class Declared:
    """Base of every kind of part. A subclass that sets an attribute replaces that of its base."""

    requires: ClassVar[Requirements] = ()
    """What must be true of other parts or of settings."""
    brings: ClassVar[Mapping[str, str]] = {}
    """Names of the parts that come along, by kind, where nobody chose otherwise."""
    offers: ClassVar[Offers] = ()
    """Traits that others may require."""


def requires_trait(part: Declared, trait: str) -> bool:
    """Return whether a part requires a trait, with whatever options."""
    return any(isinstance(each, Requirement) and each.trait == trait for each in part.requires)


@dataclass(frozen=True)
class Declaration:
    """A chosen part, or a setting, with the values of its options and what it declares."""

    kind: str
    name: str
    options: Mapping[str, Any] = field(default_factory=dict)
    requires: Requirements = ()
    brings: Mapping[str, str] = field(default_factory=dict)
    offers: Offers = ()

    def active_requirements(self) -> Iterator[Requirement | SettingRequirement]:
        """Yield the requirements that apply with its options."""
        return (each for each in self.requires if not self.mismatches(each.when))

    def active_traits(self) -> list[str]:
        """Return the traits that it offers with its options."""
        return [each.trait for each in self.all_offers() if not self.mismatches(each.when)]

    def all_offers(self) -> list[Offer]:
        """Return its offers, whatever its options."""
        return [Offer(each) if isinstance(each, str) else each for each in self.offers]

    def mismatches(self, when: Mapping[str, Any]) -> dict[str, Any]:
        """Return the entries of `when` that its options do not match."""
        return {option: wanted for option, wanted in when.items() if not matches(self.options.get(option), wanted)}

"""The vocabulary in which a part declares what it requires, what it brings along and what it offers.

A part declares these as class attributes, and `stackflower.config.requirements` applies them to a configuration::

    class GradientPenalty(Penalty):
        requires = (
            Requirement(
                "logit scores", of="discriminator", why="works on logit scores, and {other} gives {offered}"
            ),
        )
        offers = (Offer("bounded gradient", when={"weight": Not(0)}),)

A trait is any string; its meaning is that of the parts that offer and require it. docs/extending.md lists the traits in
use.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar


@dataclass(frozen=True, init=False)
class Not:
    """A pattern that matches any value except these."""

    values: tuple[Any, ...]

    def __init__(self, *values: Any):
        object.__setattr__(self, "values", values)


def matches(value: Any, wanted: Any) -> bool:
    """Return whether a value matches a pattern.

    Args:
        value: value of an option or setting.
        wanted: the value it must equal, a tuple of allowed values, or a `Not`.
    """
    if isinstance(wanted, Not):
        return value not in wanted.values
    return value in wanted if isinstance(wanted, tuple) else bool(value == wanted)


@dataclass(frozen=True)
class Offer:
    """A trait that a part offers only with certain options; a trait that it always offers is a plain string.

    Args:
        trait: name of the trait, which other parts or settings may require.
        when: patterns by option of the part, all of which must match (see `matches`).
    """

    trait: str
    when: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Requirement:
    """A trait that another chosen part must offer.

    Args:
        trait: name of the trait.
        of: kind of part, or several kinds. At least one chosen part of these kinds must offer the trait.
        why: reason, which completes a sentence that begins with the part's name. ``{other}`` stands for the chosen
            parts that lack the trait, ``{offered}`` for the traits that they offer.
        when: patterns by option of the part; the requirement applies if all match. Default: it always applies.
        dispensable: if the requirement is unmet, leave out a part or setting that came with a recipe instead of
            reporting a mistake. Only for penalties, features and settings, which can be left out.
    """

    trait: str
    of: str | tuple[str, ...]
    why: str
    when: Mapping[str, Any] = field(default_factory=dict)
    dispensable: bool = False

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds in `of`, as a tuple."""
        return (self.of,) if isinstance(self.of, str) else self.of


@dataclass(frozen=True)
class SettingRequirement:
    """A value that a setting must have.

    Args:
        setting: dotted name, such as "train.interpolated".
        value: pattern of the value (see `matches`).
        why: reason, which completes a sentence that begins with the part's name.
        when: patterns by option of the part; the requirement applies if all match. Default: it always applies.
    """

    setting: str
    value: Any
    why: str
    when: Mapping[str, Any] = field(default_factory=dict)


Requirements = tuple[Requirement | SettingRequirement, ...]
Offers = tuple[str | Offer, ...]


class Declared:
    """Base class of every kind of part. An attribute set in a subclass replaces that of its base."""

    requires: ClassVar[Requirements] = ()
    """Traits that other parts must offer, and values that settings must have."""
    brings: ClassVar[Mapping[str, str]] = {}
    """Parts to use together with this one, unless the user chooses others: names by kind."""
    offers: ClassVar[Offers] = ()
    """Traits that other parts or settings may require."""


def requires_trait(part: Declared, trait: str) -> bool:
    """Return whether a part requires a trait, with any options."""
    return any(isinstance(each, Requirement) and each.trait == trait for each in part.requires)


def offers_trait(part: Declared, trait: str) -> bool:
    """Return whether a part offers a trait, with any options."""
    return any(trait == (each.trait if isinstance(each, Offer) else each) for each in part.offers)


@dataclass(frozen=True)
class Declaration:
    """What a chosen part, or a setting, declares.

    Args:
        kind: kind of part.
        name: name of the part or setting.
        options: values of all options of the part.
        requires: requirements of other parts and settings.
        brings: names of parts to use together with it, by kind.
        offers: traits that it offers.
    """

    kind: str
    name: str
    options: Mapping[str, Any] = field(default_factory=dict)
    requires: Requirements = ()
    brings: Mapping[str, str] = field(default_factory=dict)
    offers: Offers = ()

    def get_active_requirements(self) -> Iterator[Requirement | SettingRequirement]:
        """Yield the requirements that apply with the part's options."""
        return (requirement for requirement in self.requires if not self.find_mismatches(requirement.when))

    def get_active_traits(self) -> list[str]:
        """Return the traits that the part offers with its options."""
        return [offer.trait for offer in self.list_offers() if not self.find_mismatches(offer.when)]

    def list_offers(self) -> list[Offer]:
        """Return all offers of the part, with any options."""
        return [Offer(offer) if isinstance(offer, str) else offer for offer in self.offers]

    def find_mismatches(self, when: Mapping[str, Any]) -> dict[str, Any]:
        """Return the entries of `when` that the part's options do not match."""
        return {option: wanted for option, wanted in when.items() if not matches(self.options.get(option), wanted)}

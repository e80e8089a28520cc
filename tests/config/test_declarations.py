"""What parts require, bring and offer: well-formed, documented, and open to parts of other distributions."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys

import pytest
from conftest import ROOT

from stackflower import registry
from stackflower.config.merge import merge
from stackflower.config.requirements import check, get_default
from stackflower.config.resolve import resolve
from stackflower.config.schema import OPTIONAL, PARTS, SECTIONS, SETTING_REQUIREMENTS
from stackflower.declarations import Declared, Offer, Requirement, SettingRequirement
from stackflower.errors import ConfigError
from stackflower.recipes.load import load_recipe

ENTRIES = [(entry.kind, entry.name) for entry in registry.list_entries() if entry.owner == "stackflower"]
CLASSES: dict[tuple[str, str], type[Declared]] = {part: registry.get(*part) for part in ENTRIES}
REQUIREMENTS = [
    requirement
    for requirements in (*(cls.requires for cls in CLASSES.values()), *SETTING_REQUIREMENTS.values())
    for requirement in requirements
    if isinstance(requirement, Requirement)
]


def offered(kind: str) -> set[str]:
    """The traits that parts of a kind offer, with whatever options."""
    return {
        offer.trait if isinstance(offer, Offer) else offer
        for (each, _), cls in CLASSES.items()
        for offer in cls.offers
        if each == kind
    }


@pytest.mark.parametrize(("kind", "name"), ENTRIES)
def test_declarations_are_well_formed(kind: str, name: str) -> None:
    cls, options = CLASSES[kind, name], registry.get_options(kind, name)
    for brought, part in cls.brings.items():
        assert brought in (*PARTS, *OPTIONAL, "penalty") and part in registry.list_parts(brought)
    for offer in cls.offers:
        assert isinstance(offer, str) or (offer.when and offer.when.keys() <= options.keys())
    for requirement in cls.requires:
        assert requirement.when.keys() <= options.keys()
        assert requirement.why[0].islower() and not requirement.why.endswith(".") and "--" not in requirement.why
        if isinstance(requirement, SettingRequirement):
            table, _, setting = requirement.setting.rpartition(".")
            assert requirement.setting == "stage" or setting in inspect.get_annotations(SECTIONS[table])
        else:
            assert set(requirement.kinds) <= {*PARTS, *OPTIONAL, "penalty"}
            assert not requirement.dispensable or kind in (*OPTIONAL, "penalty")


@pytest.mark.parametrize("requirement", REQUIREMENTS, ids=lambda requirement: requirement.trait)
def test_a_required_trait_is_offered(requirement: Requirement) -> None:
    assert any(requirement.trait in offered(kind) for kind in requirement.kinds)


def test_settings_with_requirements_exist() -> None:
    assert all(get_default(name) is not None for name in SETTING_REQUIREMENTS)


def test_the_page_on_parts_lists_every_trait_and_who_offers_and_requires_it() -> None:
    page = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
    table = page.split("| trait | meaning |")[1].split("\n\n")[0]
    rows = {cells[1].strip().strip("`"): cells[3:5] for line in table.splitlines()[2:] if (cells := line.split("|"))}
    kinds = {kind: offered(kind) for kind in registry.KINDS}
    assert rows.keys() == {each.trait for each in REQUIREMENTS} | set().union(*kinds.values())
    plurals = {"features": "features"} | {kind: f"{kind}s" for kind in registry.KINDS if kind != "features"}
    plurals["penalty"] = "penalties"
    for trait, (offering, requiring) in rows.items():
        for kind, traits in kinds.items():
            mentioned = bool(re.search(rf"\b({kind}|{plurals[kind]})\b(?!`)", re.sub(r"'\w+'", "", offering)))
            assert mentioned == (trait in traits), f"{trait}: offered by {kind}"
        by = {
            kind
            for (kind, _), cls in CLASSES.items()
            if any(isinstance(each, Requirement) and each.trait == trait for each in cls.requires)
        }
        by |= {"setting"} & {
            "setting" for each in SETTING_REQUIREMENTS.values() if trait in [one.trait for one in each]
        }
        for kind in by:
            assert re.search(rf"\b({kind}|{plurals.get(kind, kind)})\b", requiring), f"{trait}: required by {kind}"


def test_the_page_on_parts_lists_every_kind_and_what_its_class_may_set() -> None:
    page = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
    for kind, spec in registry.KINDS.items():
        (line,) = [
            line for line in page.splitlines() if line.startswith(f"| `{kind}` | `{spec.base.replace(':', '.')}`")
        ]
        assert all(f"`{name}`" in line for name in spec.context), kind
    attributes = page.split("## Attributes")[1].split("\n\n")[1:]
    for spec in registry.KINDS.values():
        module, _, name = spec.base.partition(":")
        base = getattr(__import__(module, fromlist=[name]), name)
        ours = set(inspect.get_annotations(base)) - {"requires", "brings", "offers", "channels", "strides", "device"}
        for attribute in ours:
            assert f"`{attribute}`" in "".join(attributes), f"{name}.{attribute}"


def test_a_part_that_is_replaced_takes_along_what_it_brought() -> None:
    notes: list[str] = []
    config = resolve(merge(load_recipe("stackgan"), {"discriminator": "critic"}, {}, notes.append))
    assert config.objective.name == "wasserstein" and [part.name for part in config.penalties] == ["gradient"]
    assert notes == [
        "Using objective wasserstein together with discriminator critic; choose another with `objective`.",
        "Using penalty gradient together with objective wasserstein; choose another with `penalty`.",
    ]
    named = {"discriminator": "critic", "objective": "wasserstein"}
    with pytest.raises(ConfigError, match="`penalty=gradient`"):
        resolve(merge(load_recipe("stackgan"), named, {}))


@pytest.mark.parametrize(
    ("flags", "settings"),
    [
        ({"penalties": {"feature-matching": {}}}, {}),
        ({}, {"penalties.feature-matching.weight": 2}),
        ({}, {"penalties": {"feature-matching": {"weight": 2}}}),
    ],
)
def test_a_penalty_that_the_user_named_is_refused_where_the_recipes_is_dropped(
    flags: dict[str, object], settings: dict[str, object]
) -> None:
    dropped = resolve(merge(load_recipe("photographs"), {"discriminator": "matching"}, {}))
    assert "feature-matching" not in [part.name for part in dropped.penalties]
    with pytest.raises(ConfigError, match=r"penalty 'feature-matching' compares .*`penalty=feature-matching`"):
        resolve(merge(load_recipe("photographs"), {"discriminator": "matching", **flags}, settings))


def test_a_requirement_may_depend_on_options() -> None:
    flags = {"discriminator": "matching", "objective": "hinge", "penalties": {"gradient": {}}}
    tree = merge(load_recipe("stackgan"), flags, {})
    (sentence,) = check(tree)
    assert "penalty 'gradient'" in sentence and "discriminator 'matching'" in sentence
    assert "`discriminator=critic` (also deep-fusion, projection, r3gan)" in sentence
    assert "`discriminator.norm=layer`" in sentence and "`penalty=gradient`" in sentence
    assert not check(merge(load_recipe("stackgan"), flags, {"discriminator.norm": "layer"}))


PLUG_IN = """
from stackflower.declarations import Requirement
from stackflower.config.merge import merge
from stackflower.config.resolve import resolve
from stackflower.errors import ConfigError
from stackflower.objectives.hinge import Hinge
from stackflower.penalties.zero_centred import R1
from stackflower.recipes.load import load_recipe
from stackflower.registry import register


@register("penalty", "tempered")
class Tempered(R1):
    requires = (Requirement("a temperature", of="objective", why="divides by a temperature, and {other} has none"),)


def problems(objective):
    flags = {"objective": objective, "penalties": {"tempered": {}}}
    try:
        resolve(merge(load_recipe("stackgan"), flags, {}))
        return []
    except ConfigError as error:
        return error.problems


print(problems("hinge"))


@register("objective", "tempered-hinge")
class TemperedHinge(Hinge):
    offers = (*Hinge.offers, "a temperature")


print(problems("hinge"))
print(problems("tempered-hinge"))
"""


def test_a_trait_of_a_third_party_is_required_and_offered() -> None:
    """In a process of its own: what it registers stays registered."""
    result = subprocess.run([sys.executable, "-c", PLUG_IN], capture_output=True, text=True, check=True)
    sentence = "penalty 'tempered' divides by a temperature, and objective 'hinge' has none: "
    alone, with_fitting, accepted = map(eval, result.stdout.splitlines())
    assert alone == [sentence + "leave out `penalty=tempered`."]
    assert with_fitting == [sentence + "use `objective=tempered-hinge`, or leave out `penalty=tempered`."]
    assert accepted == []

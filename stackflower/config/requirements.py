"""Apply the declarations of parts (see `stackflower.declarations`) to a merged tree of plain values.

`follow` adds the parts that the chosen parts bring, and drops what a recipe set for parts that were replaced. `check`
lists unmet requirements.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from stackflower import registry
from stackflower.config.schema import (
    BOUND_SETTINGS,
    OPTIONAL,
    PARTS,
    SETTING_REQUIREMENTS,
    Output,
    get_default,
    put,
    read,
)
from stackflower.declarations import Declaration, Not, Requirement, SettingRequirement, matches
from stackflower.options import suggest

Tree = dict[str, Any]
AnyRequirement = Requirement | SettingRequirement
SETTING = "setting"  # the kind in the declaration of a setting


class Choice:
    """The declarations of a tree's parts, and of its settings that differ from their defaults.

    Args:
        tree: merged values.
    """

    def __init__(self, tree: Mapping[str, Any]):
        self.tree = tree
        # kinds whose part is unknown, so that its traits are unknown too
        self.parts, self.unknown = registry.read_declarations([*_list_sections(tree)])
        self.settings = [
            Declaration(SETTING, name, requires=requirements)
            for name, requirements in SETTING_REQUIREMENTS.items()
            if read(tree, name) != get_default(name)
        ]

    def select(self, *kinds: str) -> list[Declaration]:
        """Return the chosen parts of some kinds."""
        return [part for part in self.parts if part.kind in kinds]

    def is_met(self, requirement: AnyRequirement) -> bool:
        """Return whether a requirement is met; True if it depends on an unknown part."""
        if isinstance(requirement, SettingRequirement):
            return matches(read(self.tree, requirement.setting), requirement.value)
        offered = [trait for part in self.select(*requirement.kinds) for trait in part.get_active_traits()]
        return requirement.trait in offered or not self.unknown.isdisjoint(requirement.kinds)

    def find_unmet(self) -> Iterator[tuple[Declaration, AnyRequirement, str]]:
        """Yield each part or setting with an unmet requirement, and a sentence about both, without a full stop."""
        for subject in (*self.parts, *self.settings):
            for requirement in subject.get_active_requirements():
                if not self.is_met(requirement):
                    yield subject, requirement, self._explain(subject, requirement)

    def _explain(self, subject: Declaration, requirement: AnyRequirement) -> str:
        label = f"{subject.kind} {subject.name!r}"
        if subject.kind == SETTING:
            label = f"{subject.name} = {read(self.tree, subject.name)!r}"
        if isinstance(requirement, SettingRequirement):
            return f"{label} {requirement.why}, and {requirement.setting} = {read(self.tree, requirement.setting)!r}"
        others = self.select(*requirement.kinds)
        names = " and ".join(f"{part.kind} {part.name!r}" for part in others) or f"no {requirement.kinds[0]}"
        traits = dict.fromkeys(trait for part in others for trait in part.get_active_traits())
        why = requirement.why.replace("{other}", names).replace("{offered}", " and ".join(traits) or "none")
        return f"{label} {why}"


def follow(tree: Tree, recipe: Mapping[str, Any], given: set[str], report: Callable[[str], None]) -> None:
    """Add to a merged tree what the chosen parts bring, and drop what they exclude.

    Args:
        tree: merged values, changed in place.
        recipe: values of the recipe and the defaults alone.
        given: dotted names that the user set.
        report: called with a sentence for each change.
    """
    choice = Choice(tree)
    for name, (kind, option) in BOUND_SETTINGS.items():
        if name not in given and read(tree, name) != get_default(name):
            before, after = (
                [part.options.get(option) for part in version.select(kind)] for version in (Choice(recipe), choice)
            )
            if before != after:
                report(f"Left out of the recipe: {name} = {read(tree, name)!r} was set for another {kind}.{option}.")
                put(tree, name, get_default(name))
    choice = _bring(choice, tree, recipe, given, report)
    while (lost := next(_find_lost(choice, recipe, given), None)) is not None:
        subject, sentence = lost
        report(f"Left out of the recipe: {sentence}.")
        if subject.kind == SETTING:
            put(tree, subject.name, get_default(subject.name))
        elif subject.kind == "penalty":
            del tree["penalties"][subject.name]
        else:
            del tree[subject.kind]
        choice = Choice(tree)


def _find_lost(choice: Choice, recipe: Mapping[str, Any], given: set[str]) -> Iterator[tuple[Declaration, str]]:
    """Yield each dispensable part or setting of the recipe with an unmet requirement, and the reason."""
    penalties = recipe.get("penalties")
    for subject, requirement, sentence in choice.find_unmet():
        name = subject.name if subject.kind == SETTING else _name_table(subject)
        by_user = any(f"{a}.".startswith(f"{b}.") for setting in given for a, b in ((setting, name), (name, setting)))
        brought = subject.kind == "penalty" and not (isinstance(penalties, Mapping) and subject.name in penalties)
        if not (by_user or brought) and isinstance(requirement, Requirement) and requirement.dispensable:
            yield subject, sentence


def _bring(
    choice: Choice, tree: Tree, recipe: Mapping[str, Any], given: set[str], report: Callable[[str], None]
) -> Choice:
    """Add the parts that the chosen parts bring, and what these bring in turn; return the resulting choice."""
    brought: set[str] = set()  # kinds
    pending = [*choice.parts]
    while pending:
        part = pending.pop(0)
        for kind, name in part.brings.items():
            # only a part that was itself brought brings a penalty: who names an objective also chooses its penalties
            if (kind == "penalty" and part.kind not in brought) or not _is_wanted(choice, recipe, given, part, kind):
                continue
            report(f"Using {kind} {name} together with {part.kind} {part.name}; choose another with `{kind}`.")
            if kind == "penalty":
                tree["penalties"] = {**tree.get("penalties", {}), name: {}}
            else:
                options = tree.get(kind) or {}
                tree[kind] = {"name": name, **{key: options[key] for key in options if f"{kind}.{key}" in given}}
            brought.add(kind)
            choice = Choice(tree)
            pending = [waiting for waiting in pending if waiting.kind != kind] + choice.select(kind)
    return choice


def _is_wanted(choice: Choice, recipe: Mapping[str, Any], given: set[str], part: Declaration, kind: str) -> bool:
    """Return whether `part` needs the part that it brings of a kind, and the user did not choose another."""
    chosen, before = choice.tree.get(kind), recipe.get(part.kind)
    requirements = [item for item in part.requires if isinstance(item, Requirement) and kind in item.kinds]
    possible = {offer.trait for other in choice.select(kind) for offer in other.list_offers()}  # with any options
    unmet = [item for item in requirements if not part.find_mismatches(item.when) and not choice.is_met(item)]
    if requirements and possible.issuperset(requirement.trait for requirement in unmet):
        return False
    if kind == "penalty":
        return choice.tree.get("penalties") != {}  # empty if the user chose none
    if chosen is None or (isinstance(chosen, Mapping) and "name" not in chosen):
        return True
    replaced = part.kind in PARTS and isinstance(before, Mapping) and before.get("name") != part.name
    return replaced and given.isdisjoint({kind, f"{kind}.name"})


def check(tree: Mapping[str, Any]) -> list[str]:
    """Check all requirements of the chosen parts and settings.

    Args:
        tree: merged values.

    Returns:
        A sentence for each unmet requirement, with what to choose instead. Unknown parts are not reported.
    """
    choice = Choice(tree)
    sentences = []
    for subject, requirement, sentence in choice.find_unmet():
        ways = [*_list_ways_out(choice, subject, requirement)]
        if subject.kind != SETTING and subject.kind not in PARTS:
            ways.append(f"leave out `{subject.kind}={subject.name}`")
        sentences.append(f"{sentence}: {', or '.join(ways)}." if ways else f"{sentence}.")
    return sentences


def _list_ways_out(choice: Choice, subject: Declaration, requirement: AnyRequirement) -> Iterator[str]:
    """Yield the parameters that would meet a requirement, or make it unnecessary."""
    if isinstance(requirement, SettingRequirement):
        yield from _suggest_values({requirement.setting: requirement.value})
    else:
        for kind in requirement.kinds:
            suitable = [part for part in _list_all_parts(kind) if _offers_all(part, subject)]
            yield from _suggest_parts([part for part in suitable if _works(choice, part)] or suitable)
        for part in choice.select(*requirement.kinds):
            for offer in part.list_offers():
                if offer.trait == requirement.trait:
                    yield from _suggest_values(
                        {f"{_name_table(part)}.{key}": v for key, v in part.find_mismatches(offer.when).items()}
                    )
    if subject.kind in PARTS:
        yield from _suggest_parts(
            [part for part in _list_all_parts(subject.kind) if all(map(choice.is_met, part.get_active_requirements()))]
        )
    # a value outside the pattern turns the requirement off
    outside = {key: wanted.values[0] for key, wanted in requirement.when.items() if isinstance(wanted, Not)}
    yield from _suggest_values({f"{_name_table(subject)}.{key}": value for key, value in outside.items()})
    if subject.kind == SETTING:
        yield from _suggest_values({subject.name: get_default(subject.name)})


def _offers_all(part: Declaration, subject: Declaration) -> bool:
    """Return whether a part offers all traits that `subject` requires of its kind."""
    requirements = [item for item in subject.get_active_requirements() if isinstance(item, Requirement)]
    return all(item.trait in part.get_active_traits() for item in requirements if part.kind in item.kinds)


def _works(choice: Choice, part: Declaration) -> bool:
    """Return whether all requirements of a part are met, or would be met by the parts that it brings."""
    return all(
        choice.is_met(item) or (isinstance(item, Requirement) and not part.brings.keys().isdisjoint(item.kinds))
        for item in part.get_active_requirements()
    )


def _name_table(part: Declaration) -> str:
    """Return the dotted name of the table that holds a part's options."""
    return f"penalties.{part.name}" if part.kind == "penalty" else part.kind


def _suggest_values(wanted: Mapping[str, Any]) -> Iterator[str]:
    """Yield the parameters that set the wanted values, unless a value can't be written as a parameter."""
    values = {key: value[0] if isinstance(value, tuple) else value for key, value in wanted.items()}
    if values and not any(value is None or isinstance(value, Not) for value in values.values()):
        texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in values.items()}
        yield "use " + " and ".join(f"`{key}={text}`" for key, text in texts.items())


def _suggest_parts(parts: Iterable[Declaration]) -> Iterator[str]:
    """Yield the parameter that chooses the first of some parts, with the names of the others."""
    names = [part.name for part in parts]
    for part in [*parts][:1]:
        yield f"use `{part.kind}={part.name}`" + (f" (also {', '.join(names[1:])})" if names[1:] else "")


def _list_all_parts(kind: str) -> list[Declaration]:
    """Return the parts of a kind with their default options, except those that can't be imported."""
    return registry.read_declarations((kind, {"name": name}) for name in registry.list_parts(kind))[0]


def _list_sections(tree: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield the kind and the plain values of each chosen part, even if they are malformed."""
    yield from ((kind, _as_mapping(tree.get(kind))) for kind in PARTS)
    yield from ((kind, _as_mapping(tree[kind])) for kind in OPTIONAL if tree.get(kind) is not None)
    penalties = tree.get("penalties", {})
    for name, options in penalties.items() if isinstance(penalties, Mapping) else [(None, {})]:
        yield "penalty", {**(options if isinstance(options, Mapping) else {"weight": options}), "name": name}


def _as_mapping(values: Any) -> Mapping[str, Any]:
    """Return values that are a mapping, otherwise an empty mapping."""
    return values if isinstance(values, Mapping) else {}


def check_scores(output: Output) -> list[str]:
    """Check the metrics that are computed during training, one of which selects the best model.

    Args:
        output: output settings.

    Returns:
        A sentence for each mistake.
    """
    if not output.eval_every:
        return []
    ranking = [part.name for part in _list_all_parts("metric") if "ranking" in part.offers]
    allowed = registry.list_parts("metric")
    problems = []
    if output.best not in ranking:
        problems.append(
            f"output.best = {output.best!r}: the metrics that can select the best model are {', '.join(ranking)}."
        )
    if unknown := [name for name in output.eval_metrics if name not in allowed]:
        problems += [f"output.eval_metrics: unknown metric {name!r}.{suggest(name, allowed)}" for name in unknown]
    elif output.best in ranking and output.best not in output.eval_metrics:
        problems.append(
            f"output.best = {output.best!r} is not among output.eval_metrics = {list(output.eval_metrics)}."
        )
    return problems

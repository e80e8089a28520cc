"""Scores by the registered metrics, as numbers and as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from stackflower import registry
from stackflower.errors import ComponentError, ConfigError, DataError
from stackflower.evaluation.metrics.base import Metric, MetricInputs


def create_metrics() -> dict[str, Metric]:
    """Every registered metric by its name, in the order of the report."""
    every: dict[str, Metric] = {}
    for name in registry.list_parts("metric"):
        with suppress(
            ComponentError
        ):  # one of another distribution that can't be built, unless it is asked for by name
            every[name] = registry.create("metric", name)
    return dict(sorted(every.items(), key=lambda item: item[1].position))


def list_folder_metrics() -> list[str]:
    """Names of the metrics that generate no images themselves."""
    return [name for name, metric in create_metrics().items() if not metric.needs_run]


def score(inputs: MetricInputs) -> dict[str, Any]:
    """Compute the metrics of the protocol.

    If the protocol names none, compute all that the data allow, and state why the others are missing.
    """
    named, scores, omitted = inputs.protocol.metrics, {}, {}
    for name in named or ():
        registry.create("metric", name)  # what is wrong with it, if anything
    for name, metric in create_metrics().items():
        wanted = metric.by_default if named is None else name in named
        if not wanted or (named is None and _is_inapplicable(metric, inputs)):
            continue
        try:
            if metric.needs_captions and inputs.captions is None:
                raise DataError(f"{name} can't be computed: {inputs.no_captions_reason}")
            scores[name] = metric.compute(inputs)
        except DataError as error:
            if named is not None:
                raise
            omitted[name] = str(error)
    if not scores:
        reasons = "".join(f"\n  {reason}" for reason in omitted.values())
        raise ConfigError(
            f"None of the metrics {', '.join(named or create_metrics())} can be computed from this data.{reasons}"
        )
    every = {key: value for found in scores.values() for key, value in found.items()}
    return every | {"metrics": list(scores), "omitted": omitted}


def _is_inapplicable(metric: Metric, inputs: MetricInputs) -> bool:
    """Whether a metric makes no sense for what is scored."""
    return (
        (metric.needs_captions and inputs.captions is None)
        or (metric.needs_run and inputs.generate is None)
        or (metric.needs_attributes and not inputs.reference.data.rows.attributes)
    )


def find_limit(name: str) -> tuple[str, str]:
    """Return the metric and the score, as `collect_numbers` names it, that a limit refers to.

    Raises:
        ConfigError: no score has that name.
    """
    known: dict[str, tuple[str, str]] = {}
    for each, metric in create_metrics().items():
        known |= {} if metric.measure is None else {each: (each, metric.measure)}
        known |= {other: (each, score) for other, score in metric.limits.items()}
    if name not in known:
        raise ConfigError(f"{name!r} is no score that can have a limit; allowed are {', '.join(known)}.")
    return known[name]


def find_missed_limits(scores: Mapping[str, Any], under: Mapping[str, float], over: Mapping[str, float]) -> list[str]:
    """Return a sentence for each score that is below a limit of `under` or above a limit of `over`.

    Raises:
        ConfigError: a limited score was not computed.
    """
    found, values = [], collect_numbers(scores)
    for limits, word in ((under, "under"), (over, "over")):
        for name, limit in limits.items():
            value = values.get(find_limit(name)[1])
            if value is None:
                raise ConfigError(f"`fail_{word}={name}={limit:g}`: this score can't be computed from this data.")
            if not (value >= limit if word == "under" else value <= limit):  # what is no number misses every limit
                found.append(f"{name} = {value:.4g} is {word} {limit:g}.")
    return found


def describe(scores: Mapping[str, Any]) -> str:
    """Format scores as text, followed by the protocol."""
    lines = [
        text for name, metric in create_metrics().items() if name in scores["metrics"] for text in metric.lines(scores)
    ]
    scored = [f"  {name:<18}{value}" for name, value in scores.get("scored", {}).items()]
    lines += [f"{name:<20}{reason}" for name, reason in scores.get("omitted", {}).items()]
    warnings = [f"Warning: {text}" for text in scores.get("warnings", ())]
    return "\n".join([*lines, *warnings, *(["scored", *scored] if scored else []), *_describe_protocol(scores)])


def describe_side_by_side(found: Sequence[Mapping[str, Any]]) -> str:
    """Format the scores of several subjects as a table, with the protocol of the first."""
    names = [", ".join(str(value) for value in _select_names(scores).values()) for scores in found]
    columns = [collect_numbers(scores) for scores in found]
    measures = list(dict.fromkeys(name for column in columns for name in column))
    width = max(len(name) for name in measures)
    heads = [f"  {number}  {name}" for number, name in enumerate(names, 1)]
    rows = [
        f"{name:<{width}}" + "".join(f"{column[name]:>12.4g}" if name in column else " " * 12 for column in columns)
        for name in measures
    ]
    warnings = [f"Warning: {text}" for scores in found for text in scores.get("warnings", ())]
    numbered = " " * width + "".join(f"{number:>12}" for number in range(1, len(found) + 1))
    return "\n".join([*heads, numbered, *rows, *dict.fromkeys(warnings), *_describe_protocol(found[0])])


def _describe_protocol(scores: Mapping[str, Any]) -> list[str]:
    """Format the protocol, one line per field."""
    return ["protocol", *(f"  {name:<18}{_format_value(value)}" for name, value in scores["protocol"].items())]


def _format_value(value: Any) -> str:
    """Format a value of a protocol."""
    if isinstance(value, Mapping):
        parts = [f"{name} {_format_value(each)}" for name, each in value.items()]
        return ", ".join(parts)
    return str(value)


def _select_names(scores: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields that identify a subject."""
    wanted = ("run", "folder", "function", "real_images_of", "weights")
    return {name: value for name, value in scores["scored"].items() if name in wanted}


def find_interval(scores: Mapping[str, Any], name: str) -> tuple[float, float] | None:
    """Return the interval of a score, by its name in `collect_numbers`; None if it has no interval."""
    *groups, key = name.split(": ")
    for group in groups:
        scores = scores[group]
    found = scores.get("interval" if key == "value" else f"{key}_interval")
    return None if not found else (float(found[0]), float(found[1]))


def collect_numbers(scores: Mapping[str, Any], before: str = "") -> dict[str, float]:
    """Every number among scores, those of a group by its name too."""
    found: dict[str, float] = {}
    for name, value in scores.items():
        if isinstance(value, float):
            found[before + name] = value
        elif isinstance(value, dict) and name not in ("protocol", "scored", "omitted", "compared"):
            found |= collect_numbers(value, f"{before}{name}: ")
    return found

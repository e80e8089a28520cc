"""Computation of the registered metrics, and formatting of their scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from stackflower import registry
from stackflower.errors import ComponentError, ConfigError, DataError
from stackflower.evaluation.metrics.base import Metric, MetricInputs


def create_metrics() -> dict[str, Metric]:
    """Create every registered metric; return them by name, in the order of the report."""
    metrics: dict[str, Metric] = {}
    for name in registry.list_parts("metric"):
        with suppress(ComponentError):  # a broken plugin; `score` raises its error if the metric is requested
            metrics[name] = registry.create("metric", name)
    return dict(sorted(metrics.items(), key=lambda item: item[1].position))


def list_folder_metrics() -> list[str]:
    """List the metrics that do not generate images themselves."""
    return [name for name, metric in create_metrics().items() if not metric.needs_run]


def score(inputs: MetricInputs) -> dict[str, Any]:
    """Compute the metrics of the protocol, or all that the data allow if the protocol names none.

    Returns:
        The scores by name; ``metrics``, the names of the metrics; and ``omitted``, the reason for each metric left out.

    Raises:
        ConfigError: no metric can be computed.
        DataError: a named metric can't be computed.
    """
    requested, scores, omitted = inputs.protocol.metrics, {}, {}
    for name in requested or ():
        registry.create("metric", name)  # raises if the metric is broken
    for name, metric in create_metrics().items():
        selected = metric.by_default if requested is None else name in requested
        if not selected or (requested is None and _is_inapplicable(metric, inputs)):
            continue
        try:
            if metric.needs_captions and inputs.captions is None:
                raise DataError(f"{name} can't be computed: {inputs.no_captions_reason}")
            scores[name] = metric.compute(inputs)
        except DataError as error:
            if requested is not None:
                raise
            omitted[name] = str(error)
    if not scores:
        reasons = "".join(f"\n  {reason}" for reason in omitted.values())
        raise ConfigError(
            f"None of the metrics {', '.join(requested or create_metrics())} can be computed from these data.{reasons}"
        )
    merged = {key: value for metric_scores in scores.values() for key, value in metric_scores.items()}
    return merged | {"metrics": list(scores), "omitted": omitted}


def _is_inapplicable(metric: Metric, inputs: MetricInputs) -> bool:
    """Return whether the subject or the data lack something that a metric needs."""
    return (
        (metric.needs_captions and inputs.captions is None)
        or (metric.needs_run and inputs.generate is None)
        or (metric.needs_attributes and not inputs.reference.data.rows.attributes)
    )


def find_limit(name: str) -> tuple[str, str]:
    """Return the metric that a limit refers to, and the score as `collect_numbers` names it.

    Raises:
        ConfigError: no score has that name.
    """
    targets: dict[str, tuple[str, str]] = {}
    for metric_name, metric in create_metrics().items():
        targets |= {} if metric.measure is None else {metric_name: (metric_name, metric.measure)}
        targets |= {limit_name: (metric_name, score) for limit_name, score in metric.limits.items()}
    if name not in targets:
        raise ConfigError(f"Unknown score {name!r} for a limit; use one of {', '.join(targets)}.")
    return targets[name]


def find_missed_limits(scores: Mapping[str, Any], under: Mapping[str, float], over: Mapping[str, float]) -> list[str]:
    """Return a sentence for each score below its limit in `under` or above its limit in `over`.

    Raises:
        ConfigError: a limited score was not computed.
    """
    missed, values = [], collect_numbers(scores)
    for limits, word in ((under, "under"), (over, "over")):
        for name, limit in limits.items():
            value = values.get(find_limit(name)[1])
            if value is None:
                raise ConfigError(f"`fail_{word}={name}={limit:g}`: this score can't be computed from these data.")
            if not (value >= limit if word == "under" else value <= limit):  # NaN misses every limit
                missed.append(f"{name} = {value:.4g} is {word} {limit:g}.")
    return missed


def describe(scores: Mapping[str, Any]) -> str:
    """Format scores as text, followed by the protocol."""
    lines = [
        text for name, metric in create_metrics().items() if name in scores["metrics"] for text in metric.lines(scores)
    ]
    scored = [f"  {name:<18}{value}" for name, value in scores.get("scored", {}).items()]
    lines += [f"{name:<20}{reason}" for name, reason in scores.get("omitted", {}).items()]
    warnings = [f"Warning: {text}" for text in scores.get("warnings", ())]
    return "\n".join([*lines, *warnings, *(["scored", *scored] if scored else []), *_describe_protocol(scores)])


def describe_side_by_side(all_scores: Sequence[Mapping[str, Any]]) -> str:
    """Format the scores of several subjects as a table, with the protocol of the first."""
    names = [", ".join(str(value) for value in _select_names(scores).values()) for scores in all_scores]
    columns = [collect_numbers(scores) for scores in all_scores]
    measures = list(dict.fromkeys(name for column in columns for name in column))
    width = max(len(name) for name in measures)
    legend = [f"  {number}  {name}" for number, name in enumerate(names, 1)]
    rows = [
        f"{name:<{width}}" + "".join(f"{column[name]:>12.4g}" if name in column else " " * 12 for column in columns)
        for name in measures
    ]
    warnings = [f"Warning: {text}" for scores in all_scores for text in scores.get("warnings", ())]
    numbered = " " * width + "".join(f"{number:>12}" for number in range(1, len(all_scores) + 1))
    return "\n".join([*legend, numbered, *rows, *dict.fromkeys(warnings), *_describe_protocol(all_scores[0])])


def _describe_protocol(scores: Mapping[str, Any]) -> list[str]:
    """Format the protocol, one line per field."""
    return ["protocol", *(f"  {name:<18}{_format_value(value)}" for name, value in scores["protocol"].items())]


def _format_value(value: Any) -> str:
    """Format a value of a protocol."""
    if isinstance(value, Mapping):
        parts = [f"{name} {_format_value(item)}" for name, item in value.items()]
        return ", ".join(parts)
    return str(value)


def _select_names(scores: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields that identify a subject."""
    fields = ("run", "folder", "function", "real_images_of", "weights")
    return {name: value for name, value in scores["scored"].items() if name in fields}


def find_interval(scores: Mapping[str, Any], name: str) -> tuple[float, float] | None:
    """Return the interval of a score named as in `collect_numbers`; None if it has none."""
    *groups, key = name.split(": ")
    for group in groups:
        scores = scores[group]
    interval = scores.get("interval" if key == "value" else f"{key}_interval")
    return None if not interval else (float(interval[0]), float(interval[1]))


def collect_numbers(scores: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """Collect all numeric scores by name; scores in a group are named ``GROUP: NAME``."""
    numbers: dict[str, float] = {}
    for name, value in scores.items():
        if isinstance(value, float):
            numbers[prefix + name] = value
        elif isinstance(value, dict) and name not in ("protocol", "scored", "omitted", "compared"):
            numbers |= collect_numbers(value, f"{prefix}{name}: ")
    return numbers

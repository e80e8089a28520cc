"""Scores by the registered metrics, as numbers and as text."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from stackflower import registry
from stackflower.errors import ComponentError, ConfigError, DataError
from stackflower.evaluation.metrics.base import Metric, Sample


def metrics() -> dict[str, Metric]:
    """Every registered metric by its name, in the order of the report."""
    every: dict[str, Metric] = {}
    for name in registry.names("metric"):
        with suppress(
            ComponentError
        ):  # one of another distribution that can't be built, unless it is asked for by name
            every[name] = registry.create("metric", name)
    return dict(sorted(every.items(), key=lambda item: item[1].position))


def of_folders() -> list[str]:
    """Names of the metrics that need no captions."""
    return [name for name, metric in metrics().items() if not metric.needs_captions]


def score(sample: Sample) -> dict[str, Any]:
    """The scores of the protocol's metrics; of all that the data allow, where it names none, and why the others are not among them."""
    named, scores, omitted = sample.protocol.metrics, {}, {}
    for name in named or ():
        registry.create("metric", name)  # what is wrong with it, if anything
    for name, metric in metrics().items():
        if (named is not None and name not in named) or (metric.needs_captions and sample.captions is None):
            continue
        try:
            scores[name] = metric.compute(sample)
        except DataError as error:
            if named is not None:
                raise
            omitted[name] = str(error)
    if not scores:
        reasons = "".join(f"\n  {reason}" for reason in omitted.values())
        raise ConfigError(
            f"None of the metrics {', '.join(named or metrics())} can be computed from this data.{reasons}"
        )
    every = {key: value for found in scores.values() for key, value in found.items()}
    return every | {"metrics": list(scores), "omitted": omitted}


def measure_of(name: str) -> str:
    """The score by which a metric says that one run is better than another. ConfigError where there is none."""
    known = {each: metric.measure for each, metric in metrics().items() if metric.measure is not None}
    if name not in known:
        raise ConfigError(f"{name!r} is no metric with a score to compare; allowed are {', '.join(known)}.")
    return known[name]


def missed(scores: Mapping[str, Any], under: Mapping[str, float], over: Mapping[str, float]) -> list[str]:
    """What is below the limits `under` or above the limits `over`, both by metric, in words. ConfigError for a score that was not computed."""
    found = []
    for limits, word in ((under, "under"), (over, "over")):
        for name, limit in limits.items():
            value = scores.get(measure_of(name))
            if value is None:
                raise ConfigError(f"--fail-{word} {name}={limit:g}: this score can't be computed from this data.")
            if not (value >= limit if word == "under" else value <= limit):  # what is no number misses every limit
                found.append(f"{name} = {value:.4g} is {word} {limit:g}.")
    return found


def describe(scores: Mapping[str, Any]) -> str:
    """The scores as text, the protocol below."""
    lines = [text for name, metric in metrics().items() if name in scores["metrics"] for text in metric.lines(scores)]
    scored = [f"  {name:<18}{value}" for name, value in scores.get("scored", {}).items()]
    protocol = [f"  {name:<18}{value}" for name, value in scores["protocol"].items()]
    lines += [f"{name:<20}{reason}" for name, reason in scores.get("omitted", {}).items()]
    warnings = [f"Warning: {text}" for text in scores.get("warnings", ())]
    return "\n".join([*lines, *warnings, *(["scored", *scored] if scored else []), "protocol", *protocol])

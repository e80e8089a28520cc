"""The card of a model: ``README.md``, with the metadata of the Hugging Face Hub."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from jinja2 import Environment, PackageLoader

from stackflower import __version__
from stackflower.models.record import ModelRecord

# names of the Hub's metrics
METRICS = {"inception_score_mean": "inception_score", "frechet_distance": "fid", "kernel_distance_mean": "kid"}


YAML_WORDS = frozenset({"true", "false", "yes", "no", "on", "off", "y", "n", "null"})  # values that are not texts


def render_card(record: ModelRecord, title: str, license: str | None = None, has_samples: bool = True) -> str:
    """Render the card of a model.

    Args:
        record: record of the model.
        title: name of the model: an id on the Hub, or the name of its folder.
        license: licence of the weights, by its identifier on the Hub, such as cc-by-4.0; None: not stated.
        has_samples: whether ``samples.jpg`` lies beside the card.

    Returns:
        The card, in Markdown.
    """
    environment = Environment(
        loader=PackageLoader("stackflower.models"), trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    names = {name for scores in record.scores for name, _ in _flatten(scores.get("values", {}))}
    return environment.get_template("card.md").render(
        record=record,
        training=record.history,
        title=_plain(title),
        name=json.dumps(title, ensure_ascii=False),
        license=license,
        has_samples=has_samples,
        metrics=[METRICS[name] for name in METRICS if name in names],
        tables=[_build_table(scores) for scores in record.scores],
        caption=json.dumps(record.captions[0] if record.captions else "a red flower", ensure_ascii=False),
        version=__version__,
        plain=_plain,
        quote=_quote,
    )


def _plain(text: str) -> str:
    """Return text as one line that Markdown does not interpret."""
    return " ".join(text.translate({ord(sign): f"\\{sign}" for sign in "\\`*_[]<>|#"}).split())


def _quote(text: str) -> str:
    """Return text as a value in YAML, in quotes if it needs them."""
    is_plain = re.fullmatch(r"[A-Za-z][\w./-]*", text) and text.lower() not in YAML_WORDS
    return text if is_plain else json.dumps(text, ensure_ascii=False)


def _build_table(scores: Mapping[str, Any]) -> dict[str, Any]:
    """Build the rows of a table of scores, and the sentence of its protocol."""
    intervals = dict(_flatten(scores.get("intervals", {})))
    rows = []
    for name, value in _flatten(scores.get("values", {})):
        if name.endswith("_std") or not isinstance(value, (int, float)):  # the intervals say as much as deviations
            continue
        match intervals.get(name):
            case [int() | float() as low, int() | float() as high]:
                interval = f"{low:.4g} to {high:.4g}"
            case _:
                interval = ""
        rows.append((_plain(_label(name)), f"{value:.4g}", interval))
    protocol = {name: value for name, value in _flatten(scores.get("protocol", {})) if value is not None}
    return {
        "rows": rows,
        "protocol": "; ".join(f"{_label(name).lower()}: {_plain(str(v))}" for name, v in protocol.items()),
    }


def _label(name: str) -> str:
    words = name.replace(".", ": ").replace("_", " ").replace(" mean", "").replace("frechet", "Fréchet")
    return words[:1].upper() + words[1:]


def _flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield dotted names and values of nested mappings; nothing for another value."""
    for name, value in values.items() if isinstance(values, Mapping) else ():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value

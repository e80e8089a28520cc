"""Save, read and compare scores."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stackflower.errors import ConfigError, DataError
from stackflower.evaluation.scoring import collect_numbers
from stackflower.utils.atomic import reporting_write_errors, write_text

DESCRIPTIVE_FIELDS = ("data", "trained_on", "held_out", "shuffle")  # ignored: checksums and seeds cover them
# how images were generated; compared only if both protocols have the field
GENERATION_FIELDS = ("captions", "per_caption", "truncation", "resized_to", "borders")


def save_scores(scores: Mapping[str, Any], path: Path) -> None:
    """Write scores with their protocol as JSON.

    Raises:
        DataError: the file can't be written.
    """
    with reporting_write_errors(path, DataError):
        write_text(path, json.dumps(scores, indent=2, ensure_ascii=False) + "\n")


def build_file_name(scores: Mapping[str, Any]) -> str:
    """Return the file name of scores; scores of the same weights and protocol have the same name."""
    protocol = scores["protocol"]
    key = json.dumps([select_comparable_fields(protocol), scores.get("scored", {})], sort_keys=True, default=str)
    words = f"{str(protocol['split']).split()[0]}-{protocol['extractor']}"
    return f"{re.sub(r'[^a-z0-9]+', '-', words.lower()).strip('-')}-{hashlib.sha256(key.encode()).hexdigest()[:8]}.json"


def read_scores(path: Path) -> dict[str, Any]:
    """Read scores that `save_scores` wrote.

    Raises:
        DataError: the file is missing or contains anything else.
    """
    try:
        scores: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        _ = dict(scores["protocol"]), list(scores["metrics"])
    except FileNotFoundError:
        raise DataError(f"{path} does not exist; `stackflower eval` with `out={path}` writes one.") from None
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(
            f"{path} does not contain scores written by `stackflower eval` ({type(error).__name__}: {error})."
        ) from error
    return scores


def select_comparable_fields(protocol: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a protocol that must agree for scores to be comparable."""
    return {name: value for name, value in protocol.items() if name not in DESCRIPTIVE_FIELDS}


def check_comparable(scores: Mapping[str, Any], other_scores: Mapping[str, Any], path: Path) -> None:
    """Raise ConfigError if the protocols of two scores differ, listing the differences.

    Args:
        scores: the scores.
        other_scores: scores to compare them with.
        path: file of the other scores, for the message.
    """
    here, there = (
        json.loads(json.dumps(select_comparable_fields(side["protocol"]))) for side in (scores, other_scores)
    )
    differences = [
        f"  {name}: {here.get(name, 'not stated')!r} here, {there.get(name, 'not stated')!r} there"
        for name in dict.fromkeys([*here, *there])
        if here.get(name) != there.get(name) and (name not in GENERATION_FIELDS or (name in here and name in there))
    ]
    if differences:
        raise ConfigError(
            "\n".join(
                [f"These scores and those of {path} are not comparable because their protocols differ:", *differences]
            )
            + "\nScore both with the same protocol."
        )


def compare(scores: Mapping[str, Any], other_scores: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Compare the numbers that both scores contain; return ``here``, ``there`` and ``difference`` for each."""
    here, there = collect_numbers(scores), collect_numbers(other_scores)
    return {
        name: {"here": value, "there": there[name], "difference": value - there[name]}
        for name, value in here.items()
        if name in there
    }


def describe_comparison(comparison: Mapping[str, Mapping[str, float]], path: Path) -> str:
    """Format a comparison as text."""
    width = max([len(name) for name in comparison], default=0)
    lines = [
        f"  {name:<{width}}  {row['here']:10.4g}  {row['there']:10.4g}  {row['difference']:+10.4g}"
        for name, row in comparison.items()
    ]
    return "\n".join(
        [f"compared with {path}", f"  {'':<{width}}  {'here':>10}  {'there':>10}  {'difference':>10}", *lines]
    )

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

DESCRIPTIVE_FIELDS = ("data", "trained_on", "held_out", "shuffle")  # redundant with checksums and seeds
# how images were generated; compared only if both state it
GENERATION_FIELDS = ("captions", "per_caption", "truncation", "resized_to", "borders")


def save_scores(scores: Mapping[str, Any], path: Path) -> None:
    """Write scores with their protocol as JSON.

    Raises:
        DataError: the file can't be written.
    """
    with reporting_write_errors(path, DataError):
        write_text(path, json.dumps(scores, indent=2, ensure_ascii=False) + "\n")


def build_file_name(scores: Mapping[str, Any]) -> str:
    """Return the file name of scores; the same weights and protocol have the same name."""
    protocol = scores["protocol"]
    what = json.dumps([select_comparable_fields(protocol), scores.get("scored", {})], sort_keys=True, default=str)
    words = f"{str(protocol['split']).split()[0]}-{protocol['extractor']}"
    return (
        f"{re.sub(r'[^a-z0-9]+', '-', words.lower()).strip('-')}-{hashlib.sha256(what.encode()).hexdigest()[:8]}.json"
    )


def read_scores(path: Path) -> dict[str, Any]:
    """Read scores that `save_scores` wrote.

    Raises:
        DataError: the file is missing or contains anything else.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        _ = dict(found["protocol"]), list(found["metrics"])
    except FileNotFoundError:
        raise DataError(f"{path} does not exist; `stackflower eval` with `out={path}` writes one.") from None
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(
            f"{path} does not contain scores written by `stackflower eval` ({type(error).__name__}: {error})."
        ) from error
    scores: dict[str, Any] = found
    return scores


def select_comparable_fields(protocol: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a protocol that must agree for scores to be comparable."""
    return {name: value for name, value in protocol.items() if name not in DESCRIPTIVE_FIELDS}


def check_comparable(one: Mapping[str, Any], other: Mapping[str, Any], path: Path) -> None:
    """Raise ConfigError if the protocols of two scores differ, listing the differences."""
    mine, theirs = (json.loads(json.dumps(select_comparable_fields(scores["protocol"]))) for scores in (one, other))
    listed = [
        f"  {name}: {mine.get(name, 'not stated')!r} here, {theirs.get(name, 'not stated')!r} there"
        for name in dict.fromkeys([*mine, *theirs])
        if mine.get(name) != theirs.get(name) and (name not in GENERATION_FIELDS or (name in mine and name in theirs))
    ]
    if listed:
        raise ConfigError(
            "\n".join([f"These scores and those of {path} are not comparable because their protocols differ:", *listed])
            + "\nScore both in the same way."
        )


def compare(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Compare the numbers that both contain; return ``here``, ``there`` and their ``difference``."""
    mine, theirs = collect_numbers(one), collect_numbers(other)
    return {
        name: {"here": value, "there": theirs[name], "difference": value - theirs[name]}
        for name, value in mine.items()
        if name in theirs
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

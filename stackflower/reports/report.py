"""Write one run, or several side by side, as one self-contained HTML page."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader

from stackflower.config.schema import PARTS
from stackflower.errors import ConfigError, DataError, RunError, StackflowerError
from stackflower.evaluation.comparison import comparable, read_scores
from stackflower.evaluation.scoring import interval_of, numbers
from stackflower.reports import gallery
from stackflower.reports.charts import curves_of, plot
from stackflower.runs.folder import Run
from stackflower.utils.atomic import reporting_write_errors, write_text

MOST_RUNS = 8


@dataclass(frozen=True)
class Table:
    """Scores of one protocol, a column for each run."""

    protocol: dict[str, Any]
    runs: list[str]
    rows: list[tuple[str, list[str]]]  # measure, and its value of each run


def score_tables(runs: dict[str, Run]) -> tuple[list[Table], list[str]]:
    """Collect the newest scores of every run and protocol, and sentences about files that can't be read."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    problems = []
    for name, run in runs.items():
        for path in sorted(run.scores.glob("*.json"), key=lambda path: path.stat().st_mtime):
            try:
                scores = read_scores(path)
            except DataError as error:
                problems.append(str(error))
                continue
            key = json.dumps(comparable(scores["protocol"]), sort_keys=True, default=str)
            _, comma, which = str(scores.get("scored", {}).get("weights", "")).partition(", ")
            found.setdefault(key, {})[f"{name} ({which})" if comma else name] = scores
    return [_table(columns) for columns in found.values()], problems


def _table(columns: dict[str, dict[str, Any]]) -> Table:
    found = {name: numbers(scores) for name, scores in columns.items()}
    measures = dict.fromkeys(measure for own in found.values() for measure in own)
    rows = [
        (measure.replace("_", " "), [_cell(columns[name], measure, own.get(measure)) for name, own in found.items()])
        for measure in measures
    ]
    protocol = next(iter(columns.values()))["protocol"]
    return Table(protocol, list(columns), rows)


def _cell(scores: dict[str, Any], measure: str, value: float | None) -> str:
    """Format a score with its interval."""
    within = interval_of(scores, measure)
    return "" if value is None else f"{value:.4g}" + (f" ({within[0]:.4g} to {within[1]:.4g})" if within else "")


def _named(runs: Sequence[str | Path]) -> dict[str, Run]:
    """Name each run by its folder, or by its path where two folders have the same name."""
    if len(runs) > MOST_RUNS:
        raise ConfigError(f"{len(runs)} runs: at most {MOST_RUNS} fit side by side.")
    folders = [Run(run) for run in runs]
    names = [folder.path.resolve().name for folder in folders]
    found: dict[str, Run] = {}
    for folder, name in zip(folders, names, strict=True):
        name = name if names.count(name) == 1 else str(folder)
        if name in found:
            raise ConfigError(f"{folder} is named twice.")
        found[name] = folder
    return found


def report(runs: Sequence[str | Path], nearest: int = 0, out: str | Path | None = None) -> dict[str, Any]:
    """Write the report; where it is, the last measures, and what was found of the nearest training images.

    Args:
        runs: folders, the first of which says which captions all generate.
        nearest: images of each run to show beside the training images that they are nearest to; the page then holds
            training images.
        out: the file; None: ``report.html`` in the folder of a single run, or here for several.
    """
    named = _named(runs)
    measured = {name: _measures(run) for name, run in named.items()}
    curves = plot({name: curves_of(rows) for name, rows in measured.items()})
    try:
        captions, missing = gallery.captions_of(next(iter(named.values()))), ""
    except StackflowerError as error:
        captions, missing = [], str(error)
    pairs = {name: gallery.nearest_training(run, nearest) for name, run in named.items()} if nearest else {}
    tables, problems = score_tables(named)
    page = Environment(loader=PackageLoader("stackflower.reports"), autoescape=True).get_template("report.html")
    html = page.render(
        title=", ".join(named),
        runs=[_about(name, run, measured[name]) for name, run in named.items()],
        curves=curves,
        captions=captions,
        generated={name: gallery.attempt(run, captions) if captions else missing for name, run in named.items()},
        tables=tables,
        problems=problems,
        pairs=pairs,
    )
    path = Path(out).expanduser() if out else (named.popitem()[1].path if len(named) == 1 else Path()) / "report.html"
    with reporting_write_errors(path, RunError):
        write_text(path, html + "\n")
    last = {name: _last(rows) for name, rows in measured.items()}
    found = {name: {key: value for key, value in own.items() if key != "images"} for name, own in pairs.items()}
    return {"report": str(path), "last": last, **({"nearest": found} if found else {})}


def _measures(run: Run) -> list[dict[str, Any]]:
    """Return the lines of metrics.jsonl except events. RunError if it has none."""
    run.read_record()
    rows = [row for row in run.read_metrics() if "event" not in row]
    if not rows:
        raise RunError(f"{run} has no measures yet: {run.metrics_file.name} is empty. Train it: `resume={run}`.")
    return rows


def _last(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Merge the last losses with the last scores."""
    losses = [row for row in rows if "share" in row] or rows
    scored = [row for row in rows if any(key.startswith("eval/") for key in row)]
    return losses[-1] | {key: value for row in scored[-1:] for key, value in row.items() if key.startswith("eval/")}


def _about(name: str, run: Run, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Describe a run's configuration and progress."""
    config, events = run.read_config(), [row for row in run.read_metrics() if "event" in row]
    share = max((row.get("share", 0.0) for row in rows), default=0.0)
    return {
        "name": name,
        "config": config,
        "images": max(row["images"] for row in rows),
        "share": share,
        "parts": {kind: json.dumps(getattr(config, kind).to_dict(), ensure_ascii=False) for kind in PARTS},
        "json": config.json(),
        "events": [json.dumps({k: v for k, v in row.items() if k != "text"}, ensure_ascii=False) for row in events],
        "grids": gallery.grids(run),
        "best": run.read_best(),
    }

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
from stackflower.evaluation.comparison import read_scores, select_comparable_fields
from stackflower.evaluation.scoring import collect_numbers, find_interval
from stackflower.reports import gallery
from stackflower.reports.charts import collect_curves, plot
from stackflower.runs.folder import Run
from stackflower.utils.atomic import reporting_write_errors, write_text

MAX_RUNS = 8


@dataclass(frozen=True)
class Table:
    """Scores of one protocol, with a column per run."""

    protocol: dict[str, Any]
    runs: list[str]
    rows: list[tuple[str, list[str]]]  # name of a measure, and its value in each column


def build_score_tables(runs: dict[str, Run]) -> tuple[list[Table], list[str]]:
    """Collect the newest scores of every run and protocol, and sentences about files that can't be read."""
    by_protocol: dict[str, dict[str, dict[str, Any]]] = {}
    problems = []
    for name, run in runs.items():
        for path in sorted(run.scores.glob("*.json"), key=lambda path: path.stat().st_mtime):
            try:
                scores = read_scores(path)
            except DataError as error:
                problems.append(str(error))
                continue
            key = json.dumps(select_comparable_fields(scores["protocol"]), sort_keys=True, default=str)
            _, comma, checkpoint = str(scores.get("scored", {}).get("weights", "")).partition(", ")
            by_protocol.setdefault(key, {})[f"{name} ({checkpoint})" if comma else name] = scores
    return [_build_table(columns) for columns in by_protocol.values()], problems


def _build_table(columns: dict[str, dict[str, Any]]) -> Table:
    values = {name: collect_numbers(scores) for name, scores in columns.items()}
    measures = dict.fromkeys(measure for run_values in values.values() for measure in run_values)
    rows = [
        (
            measure.replace("_", " "),
            [_format_cell(columns[name], measure, run_values.get(measure)) for name, run_values in values.items()],
        )
        for measure in measures
    ]
    protocol = next(iter(columns.values()))["protocol"]
    return Table(protocol, list(columns), rows)


def _format_cell(scores: dict[str, Any], measure: str, value: float | None) -> str:
    """Format a score with its interval; empty if the run lacks the score."""
    interval = find_interval(scores, measure)
    return "" if value is None else f"{value:.4g}" + (f" ({interval[0]:.4g} to {interval[1]:.4g})" if interval else "")


def _name_runs(runs: Sequence[str | Path]) -> dict[str, Run]:
    """Name each run by its folder, or by its path where two folders have the same name."""
    if len(runs) > MAX_RUNS:
        raise ConfigError(f"{len(runs)} runs given; a report compares at most {MAX_RUNS}.")
    folders = [Run(run) for run in runs]
    names = [folder.path.resolve().name for folder in folders]
    by_name: dict[str, Run] = {}
    for folder, name in zip(folders, names, strict=True):
        name = name if names.count(name) == 1 else str(folder)
        if name in by_name:
            raise ConfigError(f"{folder} is given twice; name each run once.")
        by_name[name] = folder
    return by_name


def write_report(runs: Sequence[str | Path], nearest: int = 0, out: str | Path | None = None) -> dict[str, Any]:
    """Write the report.

    Args:
        runs: folders of the runs; the data of the first provides the captions for all.
        nearest: number of generated images per run to show beside their nearest training images; the page then
            contains training images.
        out: file to write; None: ``report.html`` in the folder of a single run, or in the working directory for
            several.

    Returns:
        ``report``, the path of the file; ``last``, the last measures of each run; and, if requested, ``nearest``, the
        distances to the nearest training images.
    """
    by_name = _name_runs(runs)
    measures = {name: _read_measures(run) for name, run in by_name.items()}
    curves = plot({name: collect_curves(rows) for name, rows in measures.items()})
    try:
        captions, reason = gallery.choose_captions(next(iter(by_name.values()))), ""
    except StackflowerError as error:
        captions, reason = [], str(error)
    pairs = {name: gallery.find_nearest_training(run, nearest) for name, run in by_name.items()} if nearest else {}
    tables, problems = build_score_tables(by_name)
    page = Environment(loader=PackageLoader("stackflower.reports"), autoescape=True).get_template("report.html")
    html = page.render(
        title=", ".join(by_name),
        runs=[_describe_run(name, run, measures[name]) for name, run in by_name.items()],
        curves=curves,
        captions=captions,
        generated={
            name: gallery.try_generating_gallery(run, captions) if captions else reason for name, run in by_name.items()
        },
        tables=tables,
        problems=problems,
        pairs=pairs,
    )
    path = (
        Path(out).expanduser() if out else (by_name.popitem()[1].path if len(by_name) == 1 else Path()) / "report.html"
    )
    with reporting_write_errors(path, RunError):
        write_text(path, html + "\n")
    last = {name: _select_last(rows) for name, rows in measures.items()}
    distances = {
        name: {key: value for key, value in result.items() if key != "images"} for name, result in pairs.items()
    }
    return {"report": str(path), "last": last, **({"nearest": distances} if distances else {})}


def _read_measures(run: Run) -> list[dict[str, Any]]:
    """Return the lines of metrics.jsonl except events; raise RunError if there are none."""
    run.read_record()
    rows = [row for row in run.read_metrics() if "event" not in row]
    if not rows:
        raise RunError(
            f"{run} has no measures yet: {run.metrics_file.name} is empty. Resume the training: `resume={run}`."
        )
    return rows


def _select_last(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Merge the last losses with the last scores."""
    losses = [row for row in rows if "share" in row] or rows
    scored = [row for row in rows if any(key.startswith("eval/") for key in row)]
    return losses[-1] | {key: value for row in scored[-1:] for key, value in row.items() if key.startswith("eval/")}


def _describe_run(name: str, run: Run, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Describe a run's configuration and progress."""
    config, events = run.read_config(), [row for row in run.read_metrics() if "event" in row]
    share = max((row.get("share", 0.0) for row in rows), default=0.0)
    return {
        "name": name,
        "config": config,
        "images": max(row["images"] for row in rows),
        "share": share,
        "parts": {kind: json.dumps(getattr(config, kind).to_dict(), ensure_ascii=False) for kind in PARTS},
        "json": config.to_json(),
        "events": [json.dumps({k: v for k, v in row.items() if k != "text"}, ensure_ascii=False) for row in events],
        "grids": gallery.read_grids(run),
        "best": run.read_best(),
    }

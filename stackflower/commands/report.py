"""The report command: a run's curves and samples on one page."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader

from stackflower.config.schema import PARTS
from stackflower.errors import MissingDependency, RunError
from stackflower.runs.folder import RunFolder
from stackflower.utils.atomic import write_text

POINTS = 300  # of a curve; more are averaged
Curves = dict[str, dict[str, list[tuple[float, float]]]]
"""Group → measure → (images, value) pairs."""


def curves_of(rows: Sequence[Mapping[str, Any]]) -> Curves:
    """The measures of metrics.jsonl by what they belong to: ``discriminator-64/real`` is "real" of "discriminator-64"."""
    found: Curves = {}
    for row in rows:
        for name, value in row.items():
            group, slash, measure = name.partition("/")
            if name == "images_per_second":
                group, slash, measure = "speed", "/", "images per second"
            if slash and isinstance(value, (int, float)) and math.isfinite(value):
                found.setdefault(group, {}).setdefault(measure, []).append((row["images"], value))
    return found


def thinned(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """At most POINTS points, neighbours averaged."""
    size = -(-len(points) // POINTS)
    groups = [points[first : first + size] for first in range(0, len(points), size)]
    return [(sum(x for x, _ in group) / len(group), sum(y for _, y in group) / len(group)) for group in groups]


def plot(curves: Curves, columns: int = 2) -> str:
    """One chart a group, as an SVG image. MissingDependency without matplotlib."""
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingDependency("matplotlib", "report", "stackflower report") from None
    rows = -(-len(curves) // columns)
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "stackflower", "font.size": 8}):
        figure = Figure(figsize=(4.4 * columns, 2.4 * rows), layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False).flatten()
        for axis, (group, measures) in zip(axes, curves.items(), strict=False):
            for measure, points in measures.items():
                axis.plot(*zip(*thinned(points), strict=True), label=measure, linewidth=1)
            axis.set(title=group, xlabel="images")
            axis.legend(frameon=False)
        for axis in axes[len(curves) :]:
            axis.remove()
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()


def report(run: str | Path) -> dict[str, Any]:
    """Write ``report.html`` and ``curves.svg`` into a run; where they are and the last measures."""
    folder = RunFolder(run)
    config, rows = folder.config(), folder.metrics()
    measured = [row for row in rows if "event" not in row]
    if not measured:
        raise RunError(
            f"{folder} has no measures yet: {folder.metrics_file.name} is empty. Train it: --resume {folder}."
        )
    svg = plot(curves_of(measured))
    page = Environment(loader=PackageLoader("stackflower.commands"), autoescape=True).get_template("report.html")
    html = page.render(
        name=folder.path.name,
        config=config,
        images=max(row["images"] for row in rows),
        curves=svg[svg.index("<svg") :],
        events=[
            json.dumps({key: value for key, value in row.items() if key != "text"}) for row in rows if "event" in row
        ],
        parts={kind: json.dumps(getattr(config, kind).to_dict(), ensure_ascii=False) for kind in PARTS},
        grids=sorted(folder.samples.glob("*.png"), reverse=True),
    )
    try:
        write_text(folder.path / "curves.svg", svg)
        write_text(folder.path / "report.html", html + "\n")
    except OSError as error:
        raise RunError(f"The report can't be written into {folder}: {error}.") from error
    return {
        "report": str(folder.path / "report.html"),
        "curves": str(folder.path / "curves.svg"),
        "last": measured[-1],
    }

"""The report command: a run on one page, its curves drawn from metrics.jsonl, without a plotting library."""

from __future__ import annotations

import html
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stackflower.config.schema import RunConfig
from stackflower.errors import RunError
from stackflower.runs.folder import RunFolder
from stackflower.utils.atomic import write_text

WIDTH, HEIGHT, LEFT, BELOW = 420, 200, 52, 22
COLOURS = ("#1b6ca8", "#c8553d", "#3f8f4f", "#8a5fb0", "#b8860b", "#4d4d4d", "#d46a9f", "#2a9d8f")
POINTS = 300  # of a curve; more are averaged


def _thinned(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """At most POINTS points, neighbours averaged."""
    size = -(-len(points) // POINTS)
    groups = [points[first : first + size] for first in range(0, len(points), size)]
    return [(sum(x for x, _ in group) / len(group), sum(y for _, y in group) / len(group)) for group in groups]


def _shown(value: float) -> str:
    size = abs(value)
    return f"{value:,.0f}" if size >= 1000 else f"{value:.3g}"


def chart(title: str, series: dict[str, list[tuple[float, float]]], left: float = 0, top: float = 0) -> str:
    """Curves in one frame, as an SVG group: name → (images, value) pairs; a legend when there is more than one."""
    values = [y for points in series.values() for _, y in points]
    last = max((x for points in series.values() for x, _ in points), default=1) or 1
    low, high = min(values), max(values)
    if high - low < 1e-12:
        low, high = low - 0.5, high + 0.5

    def place(x: float, y: float) -> str:
        across = left + LEFT + x / last * (WIDTH - LEFT - 8)
        return f"{across:.1f},{top + 24 + (high - y) / (high - low) * (HEIGHT - 24 - BELOW):.1f}"

    parts = [
        f'<text x="{left + LEFT}" y="{top + 14}" font-weight="bold">{html.escape(title)}</text>',
        f'<rect x="{left + LEFT}" y="{top + 24}" width="{WIDTH - LEFT - 8}" height="{HEIGHT - 24 - BELOW}" fill="none" stroke="#ccc"/>',
        f'<text x="{left + LEFT - 4}" y="{top + 32}" text-anchor="end">{_shown(high)}</text>',
        f'<text x="{left + LEFT - 4}" y="{top + HEIGHT - BELOW}" text-anchor="end">{_shown(low)}</text>',
        f'<text x="{left + WIDTH - 8}" y="{top + HEIGHT - 6}" text-anchor="end">{_shown(last)} images</text>',
    ]
    for number, (name, points) in enumerate(series.items()):
        colour = COLOURS[number % len(COLOURS)]
        line = " ".join(place(x, y) for x, y in _thinned(points))
        parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="1.4"/>')
        if len(series) > 1:
            row = top + 38 + 13 * number
            parts.append(f'<text x="{left + LEFT + 8}" y="{row}" fill="{colour}">{html.escape(name)}</text>')
    return "\n".join(parts)


def groups_of(rows: Sequence[dict[str, Any]]) -> dict[str, dict[str, list[tuple[float, float]]]]:
    """The measures of metrics.jsonl by what they belong to: ``discriminator-64/real`` is "real" of "discriminator-64"."""
    found: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for row in rows:
        for name, value in row.items():
            group, slash, measure = name.partition("/")
            if name == "images_per_second":
                group, slash, measure = "speed", "/", "images a second"
            if slash and isinstance(value, (int, float)) and math.isfinite(value):
                found.setdefault(group, {}).setdefault(measure, []).append((row["images"], value))
    return found


def curves(groups: dict[str, dict[str, list[tuple[float, float]]]], columns: int = 2) -> str:
    """Every group's chart in one SVG picture."""
    charts = [
        chart(name, series, WIDTH * (number % columns), HEIGHT * (number // columns))
        for number, (name, series) in enumerate(groups.items())
    ]
    rows = -(-len(charts) // columns)
    size = f'width="{WIDTH * min(columns, len(charts))}" height="{HEIGHT * rows}"'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="11">\n'
        f'<rect width="100%" height="100%" fill="white"/>\n' + "\n".join(charts) + "\n</svg>\n"
    )


def _page(run: RunFolder, config: RunConfig, rows: list[dict[str, Any]], svg: str) -> str:
    grids = sorted(run.samples.glob("*.png"))
    events = [row for row in rows if "event" in row]
    parts = {
        kind: getattr(config, kind).plain()
        for kind in ("data", "text", "conditioning", "generator", "discriminator", "objective")
    }
    described = "\n".join(f"{kind}: {json.dumps(values, ensure_ascii=False)}" for kind, values in parts.items())
    told = "".join(
        f"<li>{html.escape(json.dumps({k: v for k, v in row.items() if k != 'text'}))}</li>" for row in events
    )
    pictures = "".join(
        f"<h3>{html.escape(grid.stem)}</h3><img src='samples/{html.escape(grid.name)}' style='max-width:100%'>"
        for grid in reversed(grids)
    )
    return (
        "<!doctype html><html lang='en'><meta charset='utf-8'>"
        f"<title>{html.escape(run.path.name)}</title><body style='font-family:sans-serif;max-width:900px;margin:auto'>"
        f"<h1>{html.escape(run.path.name)}</h1><p>Recipe {html.escape(config.recipe)}, stage {config.stage}, seed {config.seed}, "
        f"{max((row['images'] for row in rows), default=0):,} images.</p>{svg}"
        + (f"<h2>Out of the ordinary</h2><ul>{told}</ul>" if events else "")
        + f"<h2>Parts</h2><pre style='white-space:pre-wrap'>{html.escape(described)}</pre><h2>What it drew</h2>{pictures}</body></html>\n"
    )


def report(run: str | Path) -> dict[str, Any]:
    """Write ``report.html`` and ``curves.svg`` into a run; where they are and the last measures."""
    folder = RunFolder(run)
    config = folder.config()
    rows = []
    if folder.metrics_file.exists():
        for line in folder.metrics_file.read_text(encoding="utf-8").splitlines():
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError:  # a killed run may leave half a line
                continue
    measured = [row for row in rows if "event" not in row]
    if not measured:
        raise RunError(
            f"{folder} has told nothing yet: {folder.metrics_file.name} is empty. Train it: --resume {folder}."
        )
    svg = curves(groups_of(measured))
    try:
        write_text(folder.path / "curves.svg", svg)
        write_text(folder.path / "report.html", _page(folder, config, rows, svg))
    except OSError as error:
        raise RunError(f"The report can't be written into {folder}: {error}.") from error
    return {
        "report": str(folder.path / "report.html"),
        "curves": str(folder.path / "curves.svg"),
        "last": measured[-1],
    }

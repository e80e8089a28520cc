"""Curves of metrics.jsonl as an SVG image that takes its colours from the page."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

from stackflower.errors import MissingDependency

MAX_POINTS = 300  # per curve; longer curves are averaged
INK, FRAME = "#010203", "#040506"  # placeholders, replaced by the colours of the page
# line style of each run
DASHES: tuple[Any, ...] = ("-", "--", "-.", ":", (0, (8, 2)), (0, (1, 3)), (0, (5, 1, 1, 1, 1, 1)), (0, (3, 5)))
Curves = dict[str, dict[str, list[tuple[float, float]]]]
"""For each group and measure, the pairs (number of images, value)."""


def collect_curves(rows: Sequence[Mapping[str, Any]]) -> Curves:
    """Group the measures of metrics.jsonl: ``discriminator-64/real`` is "real" of "discriminator-64"."""
    curves: Curves = {}
    for row in rows:
        for name, value in row.items():
            group, slash, measure = name.partition("/")
            if name == "images_per_second":
                group, slash, measure = "speed", "/", "images per second"
            if slash and isinstance(value, (int, float)) and math.isfinite(value):
                # scores differ in scale: each gets its own chart
                group, measure = (f"eval: {measure}", measure) if group == "eval" else (group, measure)
                curves.setdefault(group, {}).setdefault(measure, []).append((row["images"], value))
    return curves


def average_points(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Reduce a curve to at most `MAX_POINTS` points by averaging neighbours."""
    size = -(-len(points) // MAX_POINTS)
    groups = [points[first : first + size] for first in range(0, len(points), size)]
    return [(sum(x for x, _ in group) / len(group), sum(y for _, y in group) / len(group)) for group in groups]


def plot(runs: Mapping[str, Curves], columns: int = 2) -> str:
    """Plot one chart per group, with the curves of every run, as an SVG image.

    Args:
        runs: curves of each run, by its name.
        columns: number of charts side by side.

    Returns:
        The ``<svg>`` element; empty if there are no curves.

    Raises:
        MissingDependency: matplotlib is not installed.
    """
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingDependency("matplotlib", "report", "stackflower report") from None
    if not any(runs.values()):
        return ""
    groups = list(dict.fromkeys(group for curves in runs.values() for group in curves))
    rows = -(-len(groups) // columns)
    colours = dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color"), INK)
    style: dict[Any, Any] = {
        "svg.fonttype": "none",
        "svg.hashsalt": "stackflower",
        "font.size": 8,
        "axes.edgecolor": FRAME,
        **colours,
    }
    with rc_context(style):
        figure = Figure(figsize=(4.4 * columns, 2.4 * rows), layout="constrained", facecolor="none")
        axes = figure.subplots(rows, columns, squeeze=False).flatten()
        for axis, group in zip(axes, groups, strict=False):
            for style_number, (run, curves) in enumerate(runs.items()):
                axis.set_prop_cycle(None)  # a measure has the same colour in every run
                for measure, points in curves.get(group, {}).items():
                    label = f"{run}: {measure}" if len(runs) > 1 else measure
                    label = label.replace("$", r"\$")  # else matplotlib reads a formula
                    if label.startswith("_"):  # matplotlib hides such labels
                        label = f"\u200b{label}"
                    line = DASHES[style_number % len(DASHES)]
                    axis.plot(*zip(*average_points(points), strict=True), label=label, linewidth=1, linestyle=line)
            axis.set(title=group, xlabel="images", facecolor="none")
            axis.legend(frameon=False)
        for axis in axes[len(groups) :]:
            axis.remove()
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    svg = buffer.getvalue()
    return svg[svg.index("<svg") :].replace(INK, "currentColor").replace(FRAME, "currentColor")

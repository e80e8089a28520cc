"""The report command: a run's curves and samples on one page."""

from __future__ import annotations

import base64
import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jinja2 import Environment, PackageLoader
from PIL import Image

from stackflower import build
from stackflower.config.schema import PARTS
from stackflower.data.images import grid
from stackflower.data.prepared import prepare
from stackflower.errors import MissingDependency, RunError
from stackflower.evaluation.nearest import describer, nearest
from stackflower.pipeline import Pipeline
from stackflower.runs.folder import RunFolder
from stackflower.utils.atomic import write_text
from stackflower.utils.progress import bar

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


def nearest_training(run: RunFolder, count: int, seed: int = 0) -> dict[str, Any]:
    """`count` images, of captions of evenly spaced training images, and the training image nearest to each, or to its mirror image.

    Returns ``images``, a PNG as a data URI with a column for each: generated, nearest; ``captions``; ``distances``; ``limit`` and
    ``copies`` as of `Nearest`.
    """
    record = run.record()
    features = build.build_features(record.config)
    record.check_features(run, features)
    pipeline = Pipeline.from_run(run.path)
    data = prepare(build.build_source(record.config), "train", record.load_size, bar)
    if len(data.rows) < 2:
        raise RunError(f"{run} was trained on {len(data.rows)} image; the nearest of at least 2 can be shown.")
    training = data.centre(pipeline.resolution)
    rows = [number * len(data.rows) // count for number in range(count)]
    captions = [data.captions[row][0] for row in rows]
    generated = torch.cat(list(pipeline.generate(captions, seed=seed))).permute(0, 3, 1, 2).cpu()
    describe = describer(features)
    found = nearest(describe(generated), torch.stack([describe(training), describe(training.flip(3))]))
    pairs = torch.stack([generated, training[found.index]]).permute(0, 1, 3, 4, 2).flatten(0, 1)
    buffer = io.BytesIO()
    Image.fromarray(grid(pairs.numpy(), count)).save(buffer, "PNG")
    return {
        "images": "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode(),
        "captions": captions,
        "distances": found.distance.tolist(),
        "limit": found.limit,
        "copies": int(found.copies.sum()),
    }


def report(run: str | Path, pairs_shown: int = 0) -> dict[str, Any]:
    """Write ``report.html`` and ``curves.svg`` into a run, with `pairs_shown` generated images beside the training images they are nearest to;
    where they are and the last measures."""
    folder = RunFolder(run)
    config, rows = folder.config(), folder.metrics()
    measured = [row for row in rows if "event" not in row]
    if not measured:
        raise RunError(
            f"{folder} has no measures yet: {folder.metrics_file.name} is empty. Train it: --resume {folder}."
        )
    svg = plot(curves_of(measured))
    pairs = nearest_training(folder, pairs_shown) if pairs_shown else None
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
        pairs=pairs,
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
        **({"nearest": {key: value for key, value in pairs.items() if key != "images"}} if pairs else {}),
    }

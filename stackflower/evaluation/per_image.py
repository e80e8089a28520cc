"""Scores of single images as a table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from stackflower.errors import DataError
from stackflower.evaluation.metrics.base import Sample
from stackflower.evaluation.metrics.logit_distance import own_distances
from stackflower.utils.atomic import write_text


def save_per_image(sample: Sample, files: Sequence[str] | None, path: Path) -> None:
    """Write ``score,id`` for each image: its cosine distance from the real image of its caption, and the number in its file's name, or its
    place. DataError where that can't be."""
    rows, distances = own_distances(sample)
    names = [
        str(row) if files is None else Path(files[row]).stem.rpartition("_")[2] or Path(files[row]).stem
        for row in rows.tolist()
    ]
    lines = [f"{value:.6f},{name}" for name, value in sorted(zip(names, distances.tolist(), strict=True))]
    try:
        write_text(path, "\n".join(["score,id", *lines]) + "\n")
    except OSError as error:
        raise DataError(f"The scores can't be written to {path}: {error}. Choose another --out.") from error

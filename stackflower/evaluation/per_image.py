"""Scores of single images as a table."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from stackflower.errors import DataError
from stackflower.evaluation.metrics.base import MetricInputs
from stackflower.evaluation.metrics.logit_distance import compute_pair_distances
from stackflower.utils.atomic import reporting_write_errors, write_text


def parse_number(name: str) -> int | None:
    """Return the last number in a file's name."""
    numbers = re.findall(r"\d+", Path(name).stem)
    return int(numbers[-1]) if numbers else None


def save_per_image(inputs: MetricInputs, files: Sequence[str] | None, path: Path) -> None:
    """Write ``score,id`` for each image.

    The score is the cosine distance from the real image of its caption; the id is the number in its file's name, or its
    place.

    Raises:
        DataError: features were kept of some of the images only, or the file can't be written.
    """
    rows, distances = compute_pair_distances(inputs)
    if len(rows) < inputs.fake.count:
        raise DataError(
            f"{path} would hold {len(rows):,} of {inputs.fake.count:,} images: keep the features of all, with "
            f"`kept={inputs.fake.count}`."
        )
    files_of_rows = inputs.reference.data.rows.files
    names = (
        [str(image) if files_of_rows is None else files_of_rows[image] for image, _ in inputs.pairs or ()]
        if files is None
        else files
    )
    scored: dict[int, float] = {}
    for row, value in zip(rows.tolist(), distances.tolist(), strict=True):
        number = parse_number(names[row])
        if number is None or number in scored:
            why = "no number" if number is None else "the number of another"
            raise DataError(f"{path}: {names[row]} has {why}, and scores are named by it.")
        scored[number] = value
    lines = [f"{value:.6f},{number:04d}" for number, value in sorted(scored.items())]
    with reporting_write_errors(path, DataError):
        write_text(path, "\n".join(["score,id", *lines]) + "\n")

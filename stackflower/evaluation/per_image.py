"""Write a table of per-image scores."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from stackflower.errors import DataError
from stackflower.evaluation.metrics.base import MetricInputs
from stackflower.evaluation.metrics.logit_distance import compute_pair_distances
from stackflower.utils.atomic import reporting_write_errors, write_text


def parse_number(name: str) -> int | None:
    """Return the last number in a file's name, or None without digits."""
    numbers = re.findall(r"\d+", Path(name).stem)
    return int(numbers[-1]) if numbers else None


def save_per_image(inputs: MetricInputs, files: Sequence[str] | None, path: Path) -> None:
    """Write ``score,id`` for each image.

    The score is the cosine distance from the real image of its caption. The id is the number in the file's name, or the
    number of the real image if the data has no files.

    Args:
        inputs: metric inputs of the images.
        files: names of the images; None: those of the real images.
        path: file to write.

    Raises:
        DataError: the outputs of some images were not kept, ids are missing or ambiguous, or the file can't be written.
    """
    rows, distances = compute_pair_distances(inputs)
    if len(rows) < inputs.fake.count:
        raise DataError(
            f"{path} would hold the scores of only {len(rows):,} of {inputs.fake.count:,} images; keep the features of "
            f"all with `kept={inputs.fake.count}`."
        )
    real_files = inputs.reference.data.rows.files
    names = (
        [str(image) if real_files is None else real_files[image] for image, _ in inputs.pairs or ()]
        if files is None
        else files
    )
    score_of: dict[int, float] = {}
    for row, value in zip(rows.tolist(), distances.tolist(), strict=True):
        number = parse_number(names[row])
        if number is None or number in score_of:
            problem = "has no number" if number is None else "has the same number as another"
            raise DataError(f"{path}: the name {names[row]} {problem}; the number in the name identifies a score.")
        score_of[number] = value
    lines = [f"{value:.6f},{number:04d}" for number, value in sorted(score_of.items())]
    with reporting_write_errors(path, DataError):
        write_text(path, "\n".join(["score,id", *lines]) + "\n")

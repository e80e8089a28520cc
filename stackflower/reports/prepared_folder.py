"""Prepare a data set once, in a folder with a summary page or in the cache."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

from stackflower.data.opening import open_source
from stackflower.data.prepared import IMAGES, KEY, ROWS, Prepared, is_partial, prepare, prepare_into
from stackflower.data.prepared import LEFT_OUT as LEFT_OUT_ROWS
from stackflower.data.source import SPLITS
from stackflower.data.sources.prepared import DESCRIPTION_FILE
from stackflower.data.survey import count_shared_images, survey
from stackflower.errors import DataError
from stackflower.reports.data_page import data_page
from stackflower.utils.atomic import RESUME_ADVICE, reporting_write_errors, try_writing, write_text

logger = logging.getLogger(__name__)

PAGE, LEFT_OUT = "summary.html", "left-out.txt"
WRITTEN = (IMAGES, ROWS, KEY, LEFT_OUT_ROWS)  # into the folder of a split


def prepare_data(
    value: str,
    out: str | None,
    *,
    size: int,
    layout: str | None,
    options: dict[str, Any],
    on_error: str,
    jobs: int | None,
) -> dict[str, Any]:
    """Decode every split into a folder, or into the cache; counts of each split, and what deserves a look."""
    skip = {"skip_bad": True} if on_error == "skip" else {}
    source = open_source(value, {**options, **skip}, layout)
    logger.info(source.describe())
    folder = None if out is None else Path(out).expanduser()
    if folder is not None:
        _refuse_taken(folder)
    splits: dict[str, tuple[Prepared, Any]] = {}
    for split in source.splits():
        for warning in source.warnings(split):
            logger.warning(warning)
        if folder is None:
            data = prepare(source, split, size, jobs)
        else:
            data = prepare_into(source, split, size, folder / split, jobs)
        splits[split] = data, survey(data)
    lines = [f"{split}: {found.images:,} images at {size} px" for split, (_, found) in splits.items()]
    shared = count_shared_images([found for _, found in splits.values()])
    notes = [f"{split}: {sentence}" for split, (_, found) in splits.items() for sentence in found.sentences]
    if shared:
        notes.append(
            f"{shared:,} images are in more than one split, pixel by pixel: scores on a held-out split that holds "
            "training images are too good."
        )
    if folder is not None:
        _write(folder, source.title(), source.layout or "built-in data", size, splits)
        lines.append(f"{folder / PAGE} shows them")
    counts = {
        split: {"images": found.images, "captions": found.captions, "left_out": len(found.left_out)}
        for split, (_, found) in splits.items()
    }
    return {"splits": counts, "notes": notes, "text": "\n".join([*lines, *notes])}


def _refuse_taken(folder: Path) -> None:
    """DataError where a folder holds anything that this command did not write, or can't be written."""
    if folder.exists():
        if not folder.is_dir():
            raise DataError(f"{folder} is a file; name a new folder.")
        for path in sorted(folder.iterdir()):
            ours = path.name in (DESCRIPTION_FILE, PAGE, LEFT_OUT) or any(is_partial(path, split) for split in SPLITS)
            if path.name in SPLITS and path.is_dir() and (path / KEY).is_file():
                path, ours = next(
                    ((one, False) for one in sorted(path.iterdir()) if one.name not in WRITTEN), (path, True)
                )
            if not ours:
                raise DataError(f"{folder} is there and holds {path.relative_to(folder)}; name a new folder.")
    with reporting_write_errors(folder, DataError):
        try_writing(folder / DESCRIPTION_FILE)


def _write(folder: Path, title: str, layout: str, size: int, splits: dict[str, tuple[Prepared, Any]]) -> None:
    """Write what makes the folder a data set, last."""
    left_out = [f"{split}: {sentence}" for split, (_, found) in splits.items() for sentence in found.left_out]
    with reporting_write_errors(folder, DataError, RESUME_ADVICE):
        for stale in SPLITS:
            if stale not in splits:
                shutil.rmtree(folder / stale, ignore_errors=True)
        write_text(folder / PAGE, data_page(title, f"{layout[0].upper()}{layout[1:]}", size, splits))
        (folder / LEFT_OUT).unlink(missing_ok=True)
        if left_out:
            write_text(folder / LEFT_OUT, "\n".join(left_out) + "\n")
        about = {"title": title, "size": size, "keys": {split: data.key for split, (data, _) in splits.items()}}
        write_text(folder / DESCRIPTION_FILE, json.dumps(about, indent=2) + "\n")

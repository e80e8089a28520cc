"""Prepare a data set once, in a folder with a summary page or in the cache."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

from stackflower.data.opening import open_source
from stackflower.data.prepared import DIGEST, IMAGES, KEY, ROWS, Prepared, is_partial, prepare, prepare_into
from stackflower.data.prepared import LEFT_OUT as LEFT_OUT_ROWS
from stackflower.data.source import SPLITS
from stackflower.data.sources.prepared import DESCRIPTION_FILE
from stackflower.data.survey import count_shared_images, survey
from stackflower.errors import DataError
from stackflower.reports.data_page import render_data_page
from stackflower.utils.atomic import RESUME_ADVICE, reporting_write_errors, try_writing, write_text

logger = logging.getLogger(__name__)

PAGE_FILE, LEFT_OUT_FILE = "summary.html", "left-out.txt"
SPLIT_FILES = (IMAGES, ROWS, KEY, LEFT_OUT_ROWS, DIGEST)  # files in the folder of a split


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
    """Decode every split of a data set into a folder or into the cache.

    Args:
        value: name of a data set, path, or pattern of shards.
        out: folder to write, with a summary page; None: the cache.
        size: size in pixels at which the images are prepared.
        layout: layout of the files; None: detect it.
        options: further options of the data set.
        on_error: "skip" to skip unreadable images, else fail.
        jobs: number of processes; None: the default.

    Returns:
        ``splits``, counts by split; ``notes``, sentences about possible problems; ``text``, a summary.
    """
    skip = {"skip_bad": True} if on_error == "skip" else {}
    source = open_source(value, {**options, **skip}, layout)
    logger.info(source.describe())
    folder = None if out is None else Path(out).expanduser()
    if folder is not None:
        _check_folder(folder)
    splits: dict[str, tuple[Prepared, Any]] = {}
    for split in source.splits():
        for warning in source.warnings(split):
            logger.warning(warning)
        if folder is None:
            data = prepare(source, split, size, jobs)
        else:
            data = prepare_into(source, split, size, folder / split, jobs)
        splits[split] = data, survey(data)
    lines = [f"{split}: {split_survey.images:,} images at {size} px" for split, (_, split_survey) in splits.items()]
    shared = count_shared_images([split_survey for _, split_survey in splits.values()])
    notes = [
        f"{split}: {sentence}" for split, (_, split_survey) in splits.items() for sentence in split_survey.sentences
    ]
    if shared:
        notes.append(
            f"{shared:,} images occur in more than one split, with identical pixels. Scores on a held-out split that "
            "contains training images are too optimistic."
        )
    if folder is not None:
        _write_description(folder, source.title(), source.layout or "built-in data", size, splits)
        lines.append(f"{folder / PAGE_FILE} shows a summary")
    counts = {
        split: {
            "images": split_survey.images,
            "captions": split_survey.captions,
            "left_out": len(split_survey.left_out),
        }
        for split, (_, split_survey) in splits.items()
    }
    return {"splits": counts, "notes": notes, "text": "\n".join([*lines, *notes])}


def _check_folder(folder: Path) -> None:
    """Raise DataError if the folder can't be written, or holds files that this command did not write."""
    if folder.exists():
        if not folder.is_dir():
            raise DataError(f"{folder} is a file; name a new folder.")
        for path in sorted(folder.iterdir()):
            expected = path.name in (DESCRIPTION_FILE, PAGE_FILE, LEFT_OUT_FILE) or any(
                is_partial(path, split) for split in SPLITS
            )
            if path.name in SPLITS and path.is_dir() and (path / KEY).is_file():
                path, expected = next(
                    ((child, False) for child in sorted(path.iterdir()) if child.name not in SPLIT_FILES), (path, True)
                )
            if not expected:
                raise DataError(f"{folder} already exists and holds {path.relative_to(folder)}; name a new folder.")
    with reporting_write_errors(folder, DataError):
        try_writing(folder / DESCRIPTION_FILE)


def _write_description(
    folder: Path, title: str, layout: str, size: int, splits: dict[str, tuple[Prepared, Any]]
) -> None:
    """Write the summary page, then the description that makes the folder a data set."""
    left_out = [
        f"{split}: {sentence}" for split, (_, split_survey) in splits.items() for sentence in split_survey.left_out
    ]
    with reporting_write_errors(folder, DataError, RESUME_ADVICE):
        for stale in SPLITS:
            if stale not in splits:
                shutil.rmtree(folder / stale, ignore_errors=True)
        write_text(folder / PAGE_FILE, render_data_page(title, f"{layout[0].upper()}{layout[1:]}", size, splits))
        (folder / LEFT_OUT_FILE).unlink(missing_ok=True)
        if left_out:
            write_text(folder / LEFT_OUT_FILE, "\n".join(left_out) + "\n")
        description = {"title": title, "size": size, "keys": {split: data.key for split, (data, _) in splits.items()}}
        write_text(folder / DESCRIPTION_FILE, json.dumps(description, indent=2) + "\n")

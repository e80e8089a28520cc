"""Write generated images as single files, a grid, or an interpolation."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import PartialState

from stackflower.data.caption_files import collect_captions
from stackflower.data.grids import check_writable_format, draw_captioned_grid, names_image_file, save_image
from stackflower.data.images import sharpen
from stackflower.errors import ConfigError, DataError
from stackflower.models.finding import find_model
from stackflower.models.record import is_model
from stackflower.pipeline import Pipeline
from stackflower.text.checks import clean_captions, report_given_captions
from stackflower.utils.atomic import replacing, reporting_write_errors
from stackflower.utils.devices import get_process_state
from stackflower.utils.threads import choosing_threads, time_batches

MAX_GRID_IMAGES = 10_000  # a grid is one file, drawn in memory
FILE_NAME = re.compile(r"(\d{5,})-(\d{2,})\.png")


@dataclass(frozen=True)
class SampleRequest:
    """What to generate and where to write it.

    The fields are the parameters of `Pipeline.generate` and of ``stackflower sample``.
    """

    model: str
    captions: list[str]
    file: str | None = None
    per_caption: int = 1
    seed: int = 0
    out: str | None = None
    revision: str | None = None
    grid: bool = False
    truncation: float | None = None
    batch_size: int = 64
    best_of: int = 1
    sharpen: float = 1.0
    side_by_side: bool = False
    checkpoint: str | None = None
    interpolate: int | None = None
    threads: int | None = None

    @property
    def default_folder(self) -> Path:
        """Folder for the images if none is given: in the folder of a run, otherwise in the current folder."""
        folder = find_model(self.model, self.revision)
        is_run = folder == Path(self.model).expanduser() and not is_model(folder)
        return folder / "generated" if is_run else Path("generated")


@dataclass(frozen=True)
class WrittenImages:
    """Written images: a single file, or a folder of files ``CAPTION-IMAGE.png``."""

    where: str
    captions: list[str]
    per_caption: int
    file: str | None = None

    def iterate_files(self) -> Iterator[str]:
        """Yield the path of every image."""
        if self.file is not None:
            yield self.file
            return
        yield from (str(Path(self.where) / name) for name, _ in name_images(self.captions, self.per_caption))

    def to_dict(self) -> dict[str, Any]:
        """Return the folder, the files and the captions."""
        return {"where": self.where, "files": list(self.iterate_files()), "captions": self.captions}

    def summarise(self) -> str:
        """Return the path of a single file, or the number of images and their folder."""
        total = len(self.captions) * self.per_caption
        if self.file is not None or total == 1:
            return next(self.iterate_files())
        return f"{total:,} images in {self.where}"


def name_images(captions: list[str], per_caption: int) -> Iterator[tuple[str, str]]:
    """Yield the file name and the caption of every image."""
    for number, caption in enumerate(captions):
        for image in range(per_caption):
            yield f"{number:05d}-{image:02d}.png", caption


def write_samples(request: SampleRequest) -> WrittenImages | None:
    """Generate images and write them.

    Returns:
        The written images, or None on processes other than the first, which write their share.

    Raises:
        ConfigError: options of the request are incompatible, or a caption is empty, too long or not valid text.
        DataError: the text encoder can represent nothing of a caption, or the images can't be written.
    """
    captions = clean_captions(collect_captions(request.captions, request.file))
    state = get_process_state()
    with choosing_threads(request.threads, state.device.type != "cpu" or state.num_processes > 1):
        return _write_samples(request, captions, state)


def _write_samples(request: SampleRequest, captions: list[str], state: PartialState) -> WrittenImages | None:
    if request.interpolate is not None:
        return _interpolate(request, captions, state)
    total, out = len(captions) * request.per_caption, request.out
    base = Path(out).expanduser() if out else request.default_folder
    one_file = out is not None and names_image_file(base)
    if one_file:
        check_writable_format(base)
    if one_file and total > 1 and not request.grid:
        raise ConfigError(f"{total:,} images don't fit into the file {out}; name a folder, or add `grid=true`.")
    if request.grid and total > MAX_GRID_IMAGES:
        raise ConfigError(
            f"`grid=true` with {total:,} images: a grid holds at most {MAX_GRID_IMAGES:,}. Leave out `grid`, "
            "or generate fewer."
        )
    if not one_file and base.is_file():
        raise ConfigError(f"`out={base}` is a file; name a folder, or a new image file, such as flower.png.")
    pipeline = _open_pipeline(request, state)
    if request.side_by_side and len(pipeline.stage.all_resolutions) == 1:
        raise ConfigError(
            f"`side_by_side=true`: {request.model} generates {pipeline.resolution} px only; later stages (`stage=2`) "
            "and trees generate several resolutions."
        )
    if state.is_main_process:
        report_given_captions(pipeline.encoder, captions)
    batches = pipeline.generate(
        captions,
        per_caption=request.per_caption,
        seed=request.seed,
        batch_size=request.batch_size,
        truncation=request.truncation,
        best_of=request.best_of,
        side_by_side=request.side_by_side,
        part=(state.process_index, state.num_processes),
    )
    images = (sharpen(image, request.sharpen) for batch in time_batches(batches) for image in batch.numpy())
    with reporting_write_errors(base, DataError):
        if request.grid:
            path = base if one_file else base / f"grid-{uuid.uuid4().hex[:6]}.png"
            return _write_grid(images, captions, path, state)
        return _write_files(images, captions, request.per_caption, base, one_file, state)


def _open_pipeline(request: SampleRequest, state: PartialState) -> Pipeline:
    with state.main_process_first():  # which downloads the model
        return Pipeline.from_pretrained(
            request.model,
            state.device,
            revision=request.revision,
            with_discriminator=request.best_of > 1,
            checkpoint=request.checkpoint,
        )


def _interpolate(request: SampleRequest, captions: list[str], state: PartialState) -> WrittenImages | None:
    """Write one grid with a row per noise: from the first caption to the last, or between noises for one caption."""
    options = {
        "`best_of`": request.best_of > 1,
        "`side_by_side`": request.side_by_side,
        "`sharpen`": request.sharpen != 1,
    }
    if refused := [name for name, is_set in options.items() if is_set]:
        raise ConfigError(f"{', '.join(refused)} can't be combined with `interpolate`; leave it out.")
    steps, rows = request.interpolate or 0, request.per_caption
    if steps * rows > MAX_GRID_IMAGES:
        raise ConfigError(
            f"`interpolate={steps}` with {rows} rows: at most {MAX_GRID_IMAGES:,} images fit into a grid."
        )
    out = Path(request.out).expanduser() if request.out else request.default_folder
    if one_file := request.out is not None and names_image_file(out):
        check_writable_format(out)
    path = out if one_file else out / f"interpolation-{uuid.uuid4().hex[:6]}.png"
    pipeline = _open_pipeline(request, state)
    if not state.is_main_process:
        return None
    report_given_captions(pipeline.encoder, captions)
    batches = pipeline.interpolate(
        captions,
        steps,
        per_caption=rows,
        seed=request.seed,
        batch_size=request.batch_size,
        truncation=request.truncation,
    )
    images = np.concatenate([batch.numpy() for batch in batches])
    with reporting_write_errors(path, DataError):
        save_image(draw_captioned_grid(images, [" -> ".join(captions), *[""] * (rows - 1)]), path, grid=True)
    return WrittenImages(str(path.parent), captions, 1, str(path))


def _write_grid(
    images: Iterator[np.ndarray], captions: list[str], path: Path, state: PartialState
) -> WrittenImages | None:
    from accelerate.utils import gather_object

    all_images = list(images)
    if state.num_processes > 1:
        all_images = gather_object(all_images)
    if not state.is_main_process:
        return None
    save_image(draw_captioned_grid(np.stack(all_images), captions), path, grid=True)
    return WrittenImages(str(path.parent), captions, 1, str(path))


def _write_files(
    images: Iterator[np.ndarray],
    captions: list[str],
    per_caption: int,
    base: Path,
    one_file: bool,
    state: PartialState,
) -> WrittenImages | None:
    first = len(captions) * per_caption * state.process_index // state.num_processes
    for row, image in enumerate(images, first):
        name = f"{row // per_caption:05d}-{row % per_caption:02d}.png"
        save_image(image, base if one_file else base / name)
    state.wait_for_everyone()
    if not state.is_main_process:
        return None
    if one_file:
        return WrittenImages(str(base.parent), captions, per_caption, str(base))
    for stale in _list_stale_files(base, len(captions), per_caption):
        (base / stale).unlink(missing_ok=True)
    with replacing(base / "metadata.jsonl") as temporary, temporary.open("w", encoding="utf-8") as lines:
        for name, caption in name_images(captions, per_caption):
            lines.write(json.dumps({"file_name": name, "text": caption}, ensure_ascii=False) + "\n")
    return WrittenImages(str(base), captions, per_caption)


def _list_stale_files(base: Path, captions: int, per_caption: int) -> list[str]:
    """List images that an earlier command wrote, according to metadata.jsonl, and this one did not replace."""
    try:
        rows = [json.loads(line) for line in (base / "metadata.jsonl").read_text(encoding="utf-8").splitlines()]
        matches = [match for row in rows if (match := FILE_NAME.fullmatch(row["file_name"]))]
    except (OSError, ValueError, KeyError, TypeError):
        return []
    return [match[0] for match in matches if int(match[1]) >= captions or int(match[2]) >= per_caption]

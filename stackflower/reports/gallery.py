"""Images of a report as data URIs, which make the page self-contained."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from stackflower import build
from stackflower.data.images import open_image, tile
from stackflower.data.prepared import prepare
from stackflower.errors import DataError, RunError, StackflowerError
from stackflower.evaluation.nearest import create_describer, find_nearest
from stackflower.pipeline import Pipeline
from stackflower.runs.folder import Run

CAPTION_COUNT, NOISE_COUNT = 5, 5
INTERPOLATION_STEPS, INTERPOLATION_ROWS = 8, 2  # columns and rows of an interpolation
MAX_GRIDS = 24  # evenly spaced grids shown of a longer training
JPEG_QUALITY = 85


@dataclass(frozen=True)
class Picture:
    """An image as a data URI, and its text: a caption or a number of images."""

    uri: str
    text: str


def encode_data_uri(image: Image.Image, kind: str = "PNG") -> str:
    """Encode an image as a data URI."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **({"quality": JPEG_QUALITY} if kind == "JPEG" else {}))
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def draw_strip(images: Iterable[Tensor], columns: int) -> str:
    """Draw batches of images uint8 `(n, R, R, 3)` as one grid, encoded as a data URI."""
    return encode_data_uri(Image.fromarray(tile(np.concatenate([batch.numpy() for batch in images]), columns)))


def read_grids(run: Run) -> list[Picture]:
    """Read the grids of the training, oldest first; unreadable ones are skipped."""
    files = sorted(run.samples.glob("images-*.png"))
    if len(files) > MAX_GRIDS:
        files = [files[round(number * (len(files) - 1) / (MAX_GRIDS - 1))] for number in range(MAX_GRIDS)]
    pictures = []
    for path in files:
        with suppress(DataError, OSError, ValueError, SyntaxError), open_image(path) as image:
            pictures.append(
                Picture(encode_data_uri(image.convert("RGB"), "JPEG"), f"{_parse_image_count(path):,} images")
            )
    return pictures


def _parse_image_count(path: Path) -> int:
    """Parse the number in ``images-000064000.png``."""
    return int(path.stem.partition("-")[2])


def choose_captions(run: Run) -> list[str]:
    """Choose the captions of evenly spaced images of the split that scores are reported on.

    Raises:
        StackflowerError: the data can't be opened.
    """
    source = build.build_source(run.read_config())
    rows = source.rows(source.get_reported_split())
    count = min(CAPTION_COUNT, len(rows))
    return [rows.captions[number * len(rows) // count][0] for number in range(count)]


@dataclass(frozen=True)
class CaptionGallery:
    """Images that a run generates for captions, and interpolations."""

    captions: list[Picture]  # each shows `NOISE_COUNT` images
    between_captions: Picture
    between_noises: Picture


def generate_gallery(run: Run, captions: Sequence[str], seed: int = 0) -> CaptionGallery:
    """Generate images for each caption with several noises, and interpolations between captions and between noises.

    Args:
        run: the run.
        captions: at least one caption.
        seed: seed of the noise.

    Raises:
        StackflowerError: the run can't be loaded.
    """
    pipeline = Pipeline.from_run(run.path)
    rows = [
        Picture(draw_strip(pipeline.generate([caption], per_caption=NOISE_COUNT, seed=seed), NOISE_COUNT), caption)
        for caption in captions
    ]
    ends = [captions[0], captions[-1]]
    return CaptionGallery(
        captions=rows,
        between_captions=Picture(
            draw_strip(
                pipeline.interpolate(ends, INTERPOLATION_STEPS, per_caption=INTERPOLATION_ROWS, seed=seed),
                INTERPOLATION_STEPS,
            ),
            " → ".join(ends),
        ),
        between_noises=Picture(
            draw_strip(
                pipeline.interpolate(ends[:1], INTERPOLATION_STEPS, per_caption=INTERPOLATION_ROWS, seed=seed),
                INTERPOLATION_STEPS,
            ),
            ends[0],
        ),
    )


def try_generating_gallery(run: Run, captions: Sequence[str]) -> CaptionGallery | str:
    """Generate the gallery, or return the reason why it can't be generated."""
    try:
        return generate_gallery(run, captions) if captions else "The data has no captions to generate images for."
    except StackflowerError as error:
        return str(error)


def find_nearest_training(run: Run, count: int, seed: int = 0) -> dict[str, Any]:
    """Generate images, and find the training image nearest to each or to its mirror image.

    Args:
        run: the run.
        count: number of images; their captions come from evenly spaced training images.
        seed: seed of the noise.

    Returns:
        ``images``, a PNG as a data URI with a column per image (generated, nearest); ``captions``; ``distances``;
        ``limit`` and ``copies`` as in `Nearest`.
    """
    record = run.read_record()
    features = build.build_features(record.config)
    record.check_features(run, features)
    pipeline = Pipeline.from_run(run.path)
    data = prepare(build.build_source(record.config), "train", record.load_size)
    if len(data.rows) < 2:
        raise RunError(f"{run} was trained on {len(data.rows)} image; the nearest training images need at least 2.")
    training = data.crop_centre(pipeline.resolution)
    rows = [number * len(data.rows) // count for number in range(count)]
    captions = [data.captions[row][0] for row in rows]
    generated = torch.cat(list(pipeline.generate(captions, seed=seed))).permute(0, 3, 1, 2).cpu()
    describe = create_describer(features)
    neighbours = find_nearest(describe(generated), torch.stack([describe(training), describe(training.flip(3))]))
    pairs = torch.stack([generated, training[neighbours.index]]).permute(0, 1, 3, 4, 2).flatten(0, 1)
    return {
        "images": encode_data_uri(Image.fromarray(tile(pairs.numpy(), count))),
        "captions": captions,
        "distances": neighbours.distance.tolist(),
        "limit": neighbours.limit,
        "copies": int(neighbours.copies.sum()),
    }

"""Images of a report, as data URIs: the page holds everything that it shows."""

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
from stackflower.evaluation.nearest import describer, nearest
from stackflower.pipeline import Pipeline
from stackflower.runs.folder import Run

CAPTIONS, NOISES = 5, 5
STEPS, ROWS = 8, 2  # of interpolations
MOST_GRIDS = 24  # of a training; more are thinned
QUALITY = 85  # of JPEG


@dataclass(frozen=True)
class Picture:
    """An image in the page, and what it shows."""

    uri: str
    text: str


def data_uri(image: Image.Image, kind: str = "PNG") -> str:
    """Encode an image as a data URI."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **({"quality": QUALITY} if kind == "JPEG" else {}))
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def strip(images: Iterable[Tensor], columns: int) -> str:
    """Batches of images uint8 (n, R, R, 3) as one grid."""
    return data_uri(Image.fromarray(tile(np.concatenate([batch.numpy() for batch in images]), columns)))


def grids(run: Run) -> list[Picture]:
    """Read the grids of the training, in order of time; those that can't be read are left out."""
    files = sorted(run.samples.glob("images-*.png"))
    if len(files) > MOST_GRIDS:
        files = [files[round(number * (len(files) - 1) / (MOST_GRIDS - 1))] for number in range(MOST_GRIDS)]
    pictures = []
    for path in files:
        with suppress(DataError, OSError, ValueError, SyntaxError), open_image(path) as image:
            pictures.append(Picture(data_uri(image.convert("RGB"), "JPEG"), f"{_images(path):,} images"))
    return pictures


def _images(path: Path) -> int:
    """Of ``images-000064000.png``, the number."""
    return int(path.stem.partition("-")[2])


def captions_of(run: Run) -> list[str]:
    """Captions of evenly spaced images of the split that scores are reported on.

    StackflowerError where the data are gone.
    """
    source = build.build_source(run.read_config())
    rows = source.rows(source.get_reported_split())
    count = min(CAPTIONS, len(rows))
    return [rows.captions[number * len(rows) // count][0] for number in range(count)]


@dataclass(frozen=True)
class Generated:
    """Images that a run generates now."""

    captions: list[Picture]  # of each, NOISES images
    between_captions: Picture
    between_noises: Picture


def generated(run: Run, captions: Sequence[str], seed: int = 0) -> Generated:
    """Five captions × five noises, and what lies between two captions and between two noises.

    StackflowerError where it can't be generated.
    """
    pipeline = Pipeline.from_run(run.path)
    rows = [
        Picture(strip(pipeline.generate([caption], per_caption=NOISES, seed=seed), NOISES), caption)
        for caption in captions
    ]
    ends = [captions[0], captions[-1]]
    return Generated(
        captions=rows,
        between_captions=Picture(
            strip(pipeline.interpolate(ends, STEPS, per_caption=ROWS, seed=seed), STEPS), " → ".join(ends)
        ),
        between_noises=Picture(
            strip(pipeline.interpolate(ends[:1], STEPS, per_caption=ROWS, seed=seed), STEPS), ends[0]
        ),
    )


def attempt(run: Run, captions: Sequence[str]) -> Generated | str:
    """Generate images for the gallery, or return the reason why that fails."""
    try:
        return generated(run, captions) if captions else "There are no captions to generate for."
    except StackflowerError as error:
        return str(error)


def nearest_training(run: Run, count: int, seed: int = 0) -> dict[str, Any]:
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
        raise RunError(f"{run} was trained on {len(data.rows)} image; the nearest of at least 2 can be shown.")
    training = data.crop_centre(pipeline.resolution)
    rows = [number * len(data.rows) // count for number in range(count)]
    captions = [data.captions[row][0] for row in rows]
    made = torch.cat(list(pipeline.generate(captions, seed=seed))).permute(0, 3, 1, 2).cpu()
    describe = describer(features)
    found = nearest(describe(made), torch.stack([describe(training), describe(training.flip(3))]))
    pairs = torch.stack([made, training[found.index]]).permute(0, 1, 3, 4, 2).flatten(0, 1)
    return {
        "images": data_uri(Image.fromarray(tile(pairs.numpy(), count))),
        "captions": captions,
        "distances": found.distance.tolist(),
        "limit": found.limit,
        "copies": int(found.copies.sum()),
    }

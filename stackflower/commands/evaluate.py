"""The eval command: generate for the data's captions, score, and state the protocol."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import PartialState

from stackflower import build
from stackflower.commands.held_out import Picked, open_split
from stackflower.config.schema import Part
from stackflower.data.source import Source
from stackflower.errors import ConfigError, DataError
from stackflower.evaluation.comparison import check_comparable, compare, file_name, read_scores, save_scores
from stackflower.evaluation.extractors.base import Extractor
from stackflower.evaluation.image_files import ImageFiles, described, refusal
from stackflower.evaluation.metrics.base import Sample
from stackflower.evaluation.protocol import Protocol
from stackflower.evaluation.scoring import of_folders, score
from stackflower.pipeline import Pipeline
from stackflower.runs.folder import RunFolder
from stackflower.training.accelerator import process_state
from stackflower.utils.atomic import try_writing
from stackflower.utils.rng import seeded

FOLDER_RESOLUTION = 64


@dataclass(frozen=True)
class Request:
    """The command line of `stackflower eval`: a run, or a folder of images."""

    run: str | None
    images: str | None
    data: dict[str, Any] | None
    extractor: str | None
    options: Mapping[str, Any]  # of the extractor
    protocol: Protocol
    resolution: int | None = None  # of a folder's images
    data_options: Mapping[str, Any] = field(default_factory=dict)
    out: str | None = None  # file for the scores; None: one in the run's folder
    compare: str | None = None  # file of other scores
    checkpoint: Literal["best"] | None = None  # of a run: "best", or None for its last model


def evaluate(request: Request) -> dict[str, Any] | None:
    """The scores of a run or of a folder of images, with their protocol; None on processes other than the first."""
    _check(request)
    state = process_state()
    if request.out is not None:
        try:
            try_writing(Path(request.out).expanduser())
        except OSError as error:
            raise ConfigError(f"--out {request.out} can't be written: {error}. Choose another file.") from error
    other = None if request.compare is None else read_scores(Path(request.compare).expanduser())
    scores = _score_folder(request, state) if request.run is None else _score_run(request, state)
    if not state.is_main_process:
        return None
    _save(scores, request)
    if other is not None:
        try:
            check_comparable(scores, other, Path(request.compare or ""))
            scores["compared"] = compare(scores, other)
        except ConfigError as error:  # raised once the scores are printed
            scores["not_comparable"] = str(error)
    return scores


def _save(scores: dict[str, Any], request: Request) -> None:
    """Save where `--out` says, or in the run's folder; where that can't be, the scores say so and are not lost."""
    if request.out is not None:
        save_scores(scores, Path(request.out).expanduser())
    elif request.run is not None:
        try:
            save_scores(scores, RunFolder(request.run).scores / file_name(scores))
        except DataError as error:
            scores["warnings"].append(str(error))


def _check(request: Request) -> None:
    protocol, images = request.protocol, request.images
    if (request.run is None) == (images is None):
        raise ConfigError("Give a run folder or --images DIR" + (", not both." if request.run else "."))
    if images is None:
        flags = {
            "--trim-border": protocol.trim_border,
            "--resolution": request.resolution,
            "--skip-bad": protocol.skip_bad,
        }
        for flag in (name for name, given in flags.items() if given):
            raise ConfigError(
                f"{flag} is for a folder's images: --images DIR. A run's are scored as they are generated."
            )
        return
    if not Path(images).expanduser().is_dir():
        raise ConfigError(f"--images {images}: there is no such folder.")
    if request.data is None:
        raise ConfigError(f"--images {images}: name the data to compare with, as in --data my-flowers.")
    if protocol.truncation is not None or request.checkpoint:
        flag = "--checkpoint" if request.checkpoint else "--truncation"
        raise ConfigError(f"{flag} is for a run, and the images of a folder are scored as they are; leave it out.")
    refused = sorted(set(protocol.metrics or ()) - set(of_folders()))
    if refused or protocol.samples:
        what = "--samples" if protocol.samples else f"--metrics {','.join(refused)}"
        raise ConfigError(f"{what} does not go with --images: a folder has no captions; use {', '.join(of_folders())}.")


# ---- a run


def _score_run(request: Request, state: PartialState) -> dict[str, Any]:
    run, protocol = RunFolder(request.run or ""), request.protocol
    pipeline, config = Pipeline.from_run(run.path, state.device, checkpoint=request.checkpoint), run.config()
    data = request.data or config.data.to_dict()
    source: Source = Part.from_dict({**data, **request.data_options}).create("data")
    size = build.load_size(config, pipeline.stage, source)
    workers, reference = open_split(
        protocol, request.extractor, request.options, source, pipeline.resolution, size, state
    )
    picked = Picked.of(reference, protocol)
    sample = picked.sample(pipeline, workers, workers.real(reference, picked.chosen))
    return {
        **score(sample),
        "warnings": _warnings(run, workers.extractor),
        "scored": {
            "run": str(run),
            "weights": _weights(run, request.checkpoint, config.train.ema_half_life),
            "images_seen": _seen(run, request.checkpoint),
            "generated_at": pipeline.resolution,
        },
        "protocol": {
            **workers.extractor.describe(),
            **reference.describe(),
            "images": len(picked.captions),
            "captions": f"one each of {len(picked.chosen):,} images of the split, drawn at random by the seed",
            "real_images": len(picked.chosen),
            "splits": protocol.splits,
            "seed": protocol.seed,
            "shuffle": "captions in random order by the seed",
            "truncation": protocol.truncation,
        },
    }


def _weights(run: RunFolder, checkpoint: str | None, ema_half_life: float) -> str:
    """Which weights of a run are scored."""
    name = "averaged (EMA)" if ema_half_life else "current"
    best = run.best() if checkpoint else None
    if best is None:
        return name
    return f"{name}, best {best['protocol'].get('metric')} in training, after {best['images']:,} images"


def _seen(run: RunFolder, checkpoint: str | None) -> int | None:
    """Images that the scored weights have been trained on; None where the run does not say."""
    best = run.best() if checkpoint else None
    return best["images"] if best is not None else max((row["images"] for row in run.metrics()), default=None)


def _warnings(run: RunFolder, extractor: Extractor) -> list[str]:
    """What makes the scores less than they seem."""
    features = run.record().features
    if features is None or not extractor.family or extractor.family != features.get("family"):
        return []
    return [
        f"{run} was trained against {features.get('name')}, and this extractor is of the same family ({extractor.family}): its scores "
        "flatter the run (Kynkäänniemi et al. 2023). Judge by another: --extractor domain."
    ]


# ---- a folder


def _score_folder(request: Request, state: PartialState) -> dict[str, Any]:
    folder, protocol = Path(request.images or "").expanduser(), request.protocol
    resolution = request.resolution or FOLDER_RESOLUTION
    files = ImageFiles.of(folder, resolution, protocol.trim_border)
    source: Source = Part.from_dict({**(request.data or {}), **request.data_options}).create("data")
    size = build.clamped(round(resolution * build.LOAD_RATIO), source)
    workers, reference = open_split(protocol, request.extractor, request.options, source, resolution, size, state)

    fake = workers.gathered(files.batches(workers.part))
    bad, sizes = workers.all(files.bad), set(workers.all(list(files.sizes)))
    if bad and not protocol.skip_bad:
        raise DataError(refusal(bad, len(files.files), folder))
    if fake is None or len(fake.features) < 2:
        read = 0 if fake is None else len(fake.features)
        raise DataError(f"{folder} has {read} image{'s' * (read != 1)} that can be read; scores need at least 2.")
    shuffle = torch.randperm(len(fake.features), generator=seeded(protocol.seed, 4))
    order = torch.randperm(len(reference.data.rows), generator=seeded(protocol.seed, 4))  # data may lie class by class
    real = workers.real(reference, order)
    extractor = workers.extractor
    sample = Sample(
        fake.rows(shuffle),
        real,
        protocol,
        reference,
        extractor.attributes,
        workers,
        original_inception=extractor.original,
    )
    return score(sample) | {
        "warnings": [f"{len(bad)} of {len(files.files):,} images can't be read and were left out."] if bad else [],
        "scored": {"folder": str(folder), "left_out": len(bad), "image_sizes": described(sizes)},
        "protocol": {
            **extractor.describe(),
            "images": len(fake.features),
            "resized_to": resolution,
            "borders": "of one colour cropped" if protocol.trim_border else "kept",
            "real_images": len(reference.data.rows),
            **reference.describe(),
            "splits": protocol.splits,
            "seed": protocol.seed,
            "shuffle": "files in random order by the seed",
        },
    }

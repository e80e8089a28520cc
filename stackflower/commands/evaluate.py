"""The eval command: generate for the data's captions, score, and state the protocol."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from torch import Tensor

from stackflower import build
from stackflower.commands.train_classifier import cached_classifier
from stackflower.config.schema import Part
from stackflower.data.images import load_square
from stackflower.data.source import Source
from stackflower.errors import ConfigError, DataError
from stackflower.evaluation.extractors.base import Extracted, Extractor
from stackflower.evaluation.metrics.base import Sample
from stackflower.evaluation.protocol import Protocol
from stackflower.evaluation.reference import Reference
from stackflower.evaluation.scoring import of_folders, score
from stackflower.pipeline import Pipeline
from stackflower.runs.folder import RunFolder
from stackflower.training.accelerator import process_state
from stackflower.utils.progress import Bar, bar, silent
from stackflower.utils.rng import seeded

FOLDER_RESOLUTION = 64


@dataclass(frozen=True)
class Request:
    """The command line of `stackflower eval`: a run, or a folder of images."""

    run: str | None
    images: str | None
    data: dict[str, Any] | None
    extractor: str | None
    weights: str | None
    protocol: Protocol
    resolution: int | None = None  # of a folder's images


class Workers:
    """The extractor on every process: each extracts its share, and all get everything."""

    def __init__(self, extractor: Extractor, state: PartialState):
        self.extractor, self.state = extractor, state

    @property
    def part(self) -> tuple[int, int]:
        """(k, n): this process's share is the k-th of n."""
        return self.state.process_index, self.state.num_processes

    def gathered(self, batches: Iterable[Tensor]) -> Extracted:
        """Of this process's batches, uint8 (n, 3, H, W), and all others', in the order of processes."""
        mine = [self.extractor(batch) for batch in batches]
        every = [mine] if self.state.num_processes == 1 else gather_object([mine])
        return Extracted.concatenate([part for parts in every for part in parts])

    def __call__(self, images: Tensor) -> Extracted:
        """Of images that every process has."""
        index, count = self.part
        first, last = len(images) * index // count, len(images) * (index + 1) // count
        return self.gathered([images[first:last]] if last > first else [])


def evaluate(request: Request) -> dict[str, Any] | None:
    """The scores of a run or of a folder of images, with their protocol; None on processes other than the first."""
    _check(request)
    state = process_state()
    scores = _score_folder(request, state) if request.run is None else _score_run(request, state)
    return scores if state.is_main_process else None


def _check(request: Request) -> None:
    protocol, images = request.protocol, request.images
    if (request.run is None) == (images is None):
        raise ConfigError("Give a run folder or --images DIR" + (", not both." if request.run else "."))
    if images is None:
        if protocol.trim_border or request.resolution:
            flag = "--trim-border" if protocol.trim_border else "--resolution"
            raise ConfigError(
                f"{flag} is for a folder's images: --images DIR. A run's are scored as they are generated."
            )
        return
    if not Path(images).expanduser().is_dir():
        raise ConfigError(f"--images {images}: there is no such folder.")
    if request.data is None:
        raise ConfigError(f"--images {images}: name the data to compare with, as in --data my-flowers.")
    refused = sorted(set(protocol.metrics or ()) - set(of_folders()))
    if refused or protocol.samples:
        what = "--samples" if protocol.samples else f"--metrics {','.join(refused)}"
        raise ConfigError(f"{what} does not go with --images: a folder has no captions; use {', '.join(of_folders())}.")


def choose_extractor(name: str | None, weights: str | None, source: Source, resolution: int, display: Bar) -> Extractor:
    """The extractor by name, or the one that suits the source: its domain classifier, where one can be trained without asking."""
    own = source.classifier_data()
    name = name or ("domain" if weights or own else "inception-v3")
    if name == "domain" and weights is None:
        if own is None:
            raise DataError(
                "The extractor 'domain' needs a classifier of this data: `stackflower train-classifier --data DIR --out FILE` "
                "makes one, then --extractor domain --weights FILE. Or --extractor inception-v3."
            )
        weights = str(cached_classifier(own, resolution, display))
    extractor: Extractor = Part(name, {} if weights is None else {"weights": weights}).create("extractor")
    return extractor


def _open(
    request: Request, source: Source, resolution: int, size: int, state: PartialState
) -> tuple[Workers, Reference]:
    """The extractor on the processes' devices, and the split to compare with; the first process makes what is missing."""
    display = bar if state.is_main_process else silent
    with state.main_process_first():
        reference = Reference.open(source, request.protocol.split, resolution, size, display)
        extractor = choose_extractor(request.extractor, request.weights, source, resolution, display)
    extractor.to(state.device)
    return Workers(extractor, state), reference


# ---- a run


def _score_run(request: Request, state: PartialState) -> dict[str, Any]:
    run, protocol = RunFolder(request.run or ""), request.protocol
    pipeline, config = Pipeline.from_run(run.path, state.device), run.config()
    source: Source = Part.from_dict(request.data).create("data") if request.data else build.build_source(config)
    size = build.load_size(config, pipeline.stage, source)
    workers, reference = _open(request, source, pipeline.resolution, size, state)

    def generate(captions: Sequence[str], per_caption: int, seed: int) -> Extracted:
        batches = pipeline.generate(
            captions, per_caption=per_caption, seed=seed, truncation=protocol.truncation, part=workers.part
        )
        return workers.gathered(batch.permute(0, 3, 1, 2) for batch in batches)

    images, numbers = reference.choose(protocol.samples, protocol.seed)
    picked = list(zip(images, numbers, strict=True))
    captions = [reference.data.captions[image][number] for image, number in picked]
    chosen = torch.tensor(list(dict.fromkeys(images)))
    sample = Sample(
        fake=generate(captions, 1, protocol.seed),
        real=workers(reference.data.centre(reference.resolution, chosen)),
        protocol=protocol,
        reference=reference,
        attributes=workers.extractor.attributes,
        extract=workers,
        captions=picked,
        generate=generate,
    )
    return {
        "run": str(run),
        **score(sample),
        "warnings": _warnings(run, workers.extractor),
        "protocol": {
            **workers.extractor.describe(),
            **reference.describe(),
            "images": len(captions),
            "captions": f"one each of {len(chosen):,} images of the split, drawn at random by the seed",
            "real_images": len(chosen),
            "splits": protocol.splits,
            "seed": protocol.seed,
            "shuffle": "captions in random order by the seed",
            "truncation": protocol.truncation,
            "weights": "averaged (EMA)" if config.train.ema_half_life else "current",
            "generated_at": pipeline.resolution,
        },
    }


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
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".png", ".jpg", ".jpeg", ".webp"))
    if len(files) < 2:
        raise DataError(f"{folder} has {len(files)} images; scores need at least 2.")
    source: Source = Part.from_dict(request.data or {}).create("data")
    resolution = request.resolution or FOLDER_RESOLUTION
    size = build.clamped(round(resolution * build.LOAD_RATIO), source)
    workers, reference = _open(request, source, resolution, size, state)

    images = np.stack([load_square(path, resolution, protocol.trim_border) for path in files])
    shuffle = torch.randperm(len(files), generator=seeded(protocol.seed, 4))
    fake = workers(torch.from_numpy(images).permute(0, 3, 1, 2)).rows(shuffle)
    order = torch.randperm(len(reference.data.rows), generator=seeded(protocol.seed, 4))  # data may lie class by class
    real = workers(reference.data.centre(resolution, order))
    sample = Sample(fake, real, protocol, reference, workers.extractor.attributes, workers)
    return score(sample) | {
        "protocol": {
            **workers.extractor.describe(),
            "images": len(files),
            "folder": str(folder),
            "resized_to": resolution,
            "borders": "of one colour cropped" if protocol.trim_border else "kept",
            "real_images": len(reference.data.rows),
            **reference.describe(),
            "splits": protocol.splits,
            "seed": protocol.seed,
            "shuffle": "files in random order by the seed",
        }
    }

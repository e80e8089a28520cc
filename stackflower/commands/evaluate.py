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
from stackflower.evaluation.metrics.caption_accuracy import caption_accuracy
from stackflower.evaluation.metrics.diversity import within_group_variance
from stackflower.evaluation.metrics.frechet_distance import frechet_distance
from stackflower.evaluation.metrics.inception_score import inception_score
from stackflower.evaluation.protocol import OF_FOLDERS, SMALL_SAMPLE, Protocol
from stackflower.evaluation.reference import Reference
from stackflower.pipeline import Pipeline
from stackflower.runs.folder import RunFolder
from stackflower.training.accelerator import process_state
from stackflower.utils.progress import Bar, bar, silent
from stackflower.utils.rng import seeded

DIVERSITY_CAPTIONS, DIVERSITY_LATENTS = 48, 16
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
    refused = sorted(set(protocol.metrics or ()) - set(OF_FOLDERS))
    if refused or protocol.samples:
        what = "--samples" if protocol.samples else f"--metrics {','.join(refused)}"
        raise ConfigError(f"{what} does not go with --images: a folder has no captions; use is and fid.")


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

    images, numbers = reference.choose(protocol.samples, protocol.seed)
    picked = list(zip(images, numbers, strict=True))
    captions = [reference.data.captions[image][number] for image, number in picked]
    fake = _generated(pipeline, workers, captions, 1, protocol.seed, protocol)
    chosen = torch.tensor(list(dict.fromkeys(images)))
    real = workers(reference.data.centre(reference.resolution, chosen))
    scores = _distribution_scores(fake, real, protocol)
    if protocol.wants("captions"):
        scores |= _caption_scores(fake, picked, reference, workers.extractor, protocol)
    if protocol.wants("diversity"):
        scores |= _diversity(pipeline, reference, workers, protocol)
    return {
        "run": str(run),
        **scores,
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


def _generated(
    pipeline: Pipeline, workers: Workers, captions: Sequence[str], per_caption: int, seed: int, protocol: Protocol
) -> Extracted:
    batches = pipeline.generate(
        captions, per_caption=per_caption, seed=seed, truncation=protocol.truncation, part=workers.part
    )
    return workers.gathered(batch.permute(0, 3, 1, 2) for batch in batches)


def _distribution_scores(fake: Extracted, real: Extracted, protocol: Protocol) -> dict[str, Any]:
    """Scores that need no captions."""
    scores: dict[str, Any] = {}
    if protocol.wants("is"):
        for name, logits in (("inception_score", fake.logits), ("real_inception_score", real.logits)):
            if protocol.splits > len(logits):
                raise ConfigError(f"--splits {protocol.splits} of {len(logits)} images: use at most {len(logits)}.")
            mean, std = inception_score(logits, protocol.splits)
            scores |= {f"{name}_mean": mean, f"{name}_std": std}
        if len(fake.logits) == len(real.logits):  # fewer images a split score lower
            share = scores["inception_score_mean"] / scores["real_inception_score_mean"]
            scores["inception_score_share_of_real"] = share
    if protocol.wants("fid"):
        scores["frechet_distance"] = frechet_distance(fake.features, real.features)
        if min(len(fake.features), len(real.features)) < SMALL_SAMPLE:
            scores["frechet_distance_note"] = f"biased upwards: fewer than {SMALL_SAMPLE:,} images on a side"
    return scores


def _caption_scores(
    fake: Extracted,
    picked: Sequence[tuple[int, int]],
    reference: Reference,
    extractor: Extractor,
    protocol: Protocol,
) -> dict[str, Any]:
    if extractor.attributes:
        mentioned = [reference.mentioned_attributes(image, caption) for image, caption in picked]
        return {"caption_accuracy": caption_accuracy(fake.heads, extractor.attributes, mentioned)}
    if protocol.requires("captions"):
        raise DataError("Caption accuracy needs data with attributes and --extractor domain trained on them.")
    return {}


def _diversity(pipeline: Pipeline, reference: Reference, workers: Workers, protocol: Protocol) -> dict[str, Any]:
    """Variance of features over latents within a caption, divided by that of real images."""
    if reference.data.labels is None and not protocol.requires("diversity"):
        return {}
    images, numbers = reference.choose(DIVERSITY_CAPTIONS, protocol.seed + 1)
    picked = list(zip(images, numbers, strict=True))
    captions = [reference.data.captions[image][number] for image, number in picked]
    fake = _generated(pipeline, workers, captions, DIVERSITY_LATENTS, protocol.seed + 1, protocol)
    groups = torch.arange(len(captions)).repeat_interleave(DIVERSITY_LATENTS)
    similar, real_groups, against = reference.similar(picked, DIVERSITY_LATENTS, protocol.seed)
    try:
        generated_variance = within_group_variance(fake.features, groups)
        real_variance = within_group_variance(workers(similar).features, real_groups)
    except ValueError as error:
        if not protocol.requires("diversity"):
            return {}
        raise DataError(
            f"Diversity can't be measured: no two real images share a class or caption ({error})"
        ) from error
    return {
        "diversity_within_caption": {
            "value": generated_variance / real_variance,
            "generated_variance": generated_variance,
            "real_variance": real_variance,
            "against": against,
            "captions": len(captions),
            "latents": DIVERSITY_LATENTS,
        }
    }


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
    return _distribution_scores(fake, real, protocol) | {
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

"""What can be scored by the captions of a data set: a run or one of its checkpoints, a Python function."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import PartialState
from torch import Tensor

from stackflower import build
from stackflower.config.schema import Part
from stackflower.data.source import Source
from stackflower.errors import ConfigError, DataError
from stackflower.evaluation.extraction import BATCH, DistributedExtractor
from stackflower.evaluation.extractors.base import Extractor
from stackflower.evaluation.metrics.base import Sample
from stackflower.evaluation.protocol import Protocol
from stackflower.evaluation.real_statistics import load_or_compute
from stackflower.evaluation.reference import Reference
from stackflower.evaluation.sampling import Generate, Picked, generate_by_pipeline
from stackflower.pipeline import Pipeline
from stackflower.runs.folder import Run
from stackflower.utils.distributed import share
from stackflower.utils.rng import create_rng

Function = Callable[[Sequence[str], int], Tensor]  # captions, seed → uint8 (N, 3, R, R)


@dataclass(frozen=True)
class Scored:
    """A sample, and what is stated with its scores."""

    sample: Sample
    what: dict[str, Any]  # that is scored
    protocol: dict[str, Any]  # besides that of extractor and reference
    warnings: list[str]


def open_data(data: Mapping[str, Any] | None, options: Mapping[str, Any]) -> Source:
    """Open a data set with further options."""
    if data is None:
        raise ConfigError("Name the data to compare with, as in `data=my-flowers`.")
    source: Source = Part.from_dict({**data, **options}).create("data")
    return source


class Subject(ABC):
    """Something that is scored."""

    resolution: int
    name: str  # for messages and tables

    @abstractmethod
    def source(self, data: Mapping[str, Any] | None, options: Mapping[str, Any]) -> Source:
        """Open the data set that the subject is compared with."""

    def size(self, source: Source) -> int:
        """Return the size in pixels at which the real images are prepared."""
        return build.clamped(round(self.resolution * build.LOAD_RATIO), source)

    @abstractmethod
    def scored(self, extractor: DistributedExtractor, reference: Reference, protocol: Protocol) -> Scored:
        """Generate or read the images, and extract their features."""


class Generated(Subject):
    """Images that are generated for the captions of the data."""

    generate: Generate

    def scored(self, extractor: DistributedExtractor, reference: Reference, protocol: Protocol) -> Scored:
        picked = Picked.of(reference, protocol)
        real = load_or_compute(extractor, reference, picked.chosen, protocol)
        stated = {
            "images": len(picked.pairs),
            "captions": f"one each of {len(picked.chosen):,} images of the split, drawn at random by the seed",
            "per_caption": protocol.per_caption,
            "real_images": len(picked.chosen),
            "kept": protocol.kept,
            "shuffle": "captions in random order by the seed",
            "truncation": protocol.truncation,
        }
        return Scored(
            picked.generate_sample(self.generate, extractor, real),
            self.describe(),
            stated,
            self.warnings(extractor.extractor),
        )

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """Stated with the scores."""

    def warnings(self, extractor: Extractor) -> list[str]:
        """Return warnings about scores that are misleading."""
        return []


class ScoredRun(Generated):
    """A run.

    Args:
        run: its folder.
        checkpoint: "best", the images after which a checkpoint was written, or None for the last model.
    """

    def __init__(self, run: str, checkpoint: str | None, protocol: Protocol, state: PartialState):
        self.run, self.checkpoint = Run(run), checkpoint
        self.name = run if checkpoint is None else f"{run} ({checkpoint})"
        self.pipeline = Pipeline.from_run(self.run.path, state.device, checkpoint=checkpoint)
        self.config = self.run.read_config()
        self.resolution = self.pipeline.resolution
        self.generate = generate_by_pipeline(self.pipeline, protocol.truncation)

    def source(self, data: Mapping[str, Any] | None, options: Mapping[str, Any]) -> Source:
        return open_data(data or self.config.data.to_dict(), options)

    def size(self, source: Source) -> int:
        return build.load_size(self.config, self.pipeline.stage, source)

    def describe(self) -> dict[str, Any]:
        best = self.run.read_best() if self.checkpoint == "best" else None
        weights = "averaged (EMA)" if self.config.train.ema_half_life else "current"
        seen = max((row["images"] for row in self.run.read_metrics()), default=None)
        if best is not None:
            seen = best["images"]
            weights += f", best {best['protocol'].get('metric')} in training, after {seen:,} images"
        elif self.checkpoint is not None:
            seen = int(self.checkpoint)
            weights += f", after {seen:,} images"
        return {"run": str(self.run), "weights": weights, "images_seen": seen, "generated_at": self.resolution}

    def warnings(self, extractor: Extractor) -> list[str]:
        features = self.run.read_record().features
        if features is None or not extractor.family or extractor.family != features.get("family"):
            return []
        return [
            f"{self.run} was trained against {features.get('name')}, and this extractor is of the same family "
            f"({extractor.family}): its scores flatter the run (Kynkäänniemi et al. 2023). Score it with another, "
            "such as `extractor=domain`."
        ]


class ScoredFunction(Generated):
    """A Python function.

    Args:
        function: from captions and a seed to images uint8 (N, 3, R, R), one per caption. It may be called with few
            captions at a time.
        resolution: R.
        name: stated with the scores.
    """

    def __init__(self, function: Function, resolution: int, name: str):
        self.function, self.resolution, self.name = function, resolution, name

    def source(self, data: Mapping[str, Any] | None, options: Mapping[str, Any]) -> Source:
        return open_data(data, options)

    def describe(self) -> dict[str, Any]:
        return {"function": self.name, "generated_at": self.resolution}

    def generate(
        self, captions: Sequence[str], *, per_caption: int, seed: int, part: tuple[int, int]
    ) -> Iterator[Tensor]:
        """Generate images as `Generate` does.

        Each block of captions has its own seed, so that noise does not repeat, and does not depend on shares.
        """
        mine = share(len(captions) * per_caption, part)
        for number in range(mine.start // BATCH, -(-mine.stop // BATCH)):
            rows = range(number * BATCH, min((number + 1) * BATCH, len(captions) * per_caption))
            block = create_rng(seed, 12, number).initial_seed() % 2**31
            found = self.function([captions[row // per_caption] for row in rows], block)
            wanted = (len(rows), 3, self.resolution, self.resolution)
            if not isinstance(found, Tensor) or found.dtype != torch.uint8 or tuple(found.shape) != wanted:
                given = f"{found.dtype} {tuple(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
                raise DataError(
                    f"{self.name} gave {given} for {len(rows)} captions; wanted is a tensor uint8 {wanted}."
                )
            yield found[max(mine.start - rows.start, 0) : mine.stop - rows.start]

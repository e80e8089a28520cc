"""Subjects that generate images for the captions of a data set: a run, one of its checkpoints, or a function."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import PartialState
from torch import Tensor

from stackflower import build, registry
from stackflower.config.schema import Part
from stackflower.data.source import Source
from stackflower.errors import ConfigError, DataError
from stackflower.evaluation.extraction import BATCH_SIZE, DistributedExtractor
from stackflower.evaluation.extractors.base import Extractor
from stackflower.evaluation.metrics.base import MetricInputs
from stackflower.evaluation.protocol import Protocol
from stackflower.evaluation.real_statistics import load_or_compute
from stackflower.evaluation.reference import Reference
from stackflower.evaluation.sampling import GenerateFunction, Selection, adapt_pipeline
from stackflower.models.finding import find_model
from stackflower.models.record import is_model
from stackflower.pipeline import Pipeline
from stackflower.runs.folder import Run
from stackflower.utils.distributed import share
from stackflower.utils.rng import create_rng

ImageFunction = Callable[[Sequence[str], int], Tensor]  # captions, seed → uint8 (N, 3, R, R)


@dataclass(frozen=True)
class SubjectInputs:
    """The metric inputs of a subject, and what is recorded with its scores."""

    inputs: MetricInputs
    subject: dict[str, Any]  # description of what is scored
    protocol: dict[str, Any]  # protocol fields added by the subject
    warnings: list[str]


def open_data(data: Mapping[str, Any] | None, options: Mapping[str, Any]) -> Source:
    """Open a data set.

    Args:
        data: name and options of the data set.
        options: further options, which override those in `data`.

    Raises:
        ConfigError: `data` is None.
    """
    if data is None:
        raise ConfigError("Name the data to compare with: `data=my-flowers`.")
    source: Source = Part.from_dict({**data, **options}).create("data")
    return source


class Subject(ABC):
    """Base class of subjects: everything that can be scored."""

    resolution: int
    name: str  # for messages and tables

    @abstractmethod
    def open_source(self, data: Mapping[str, Any] | None, options: Mapping[str, Any]) -> Source:
        """Open the data set that the subject is compared with."""

    def choose_size(self, source: Source) -> int:
        """Return the size in pixels at which real images are prepared."""
        return build.clamp_size(round(self.resolution * build.LOAD_RATIO), source)

    @abstractmethod
    def extract(self, extractor: DistributedExtractor, reference: Reference, protocol: Protocol) -> SubjectInputs:
        """Generate or read the images, and extract their features.

        Args:
            extractor: feature extractor.
            reference: split to compare with.
            protocol: protocol of the scores.
        """


class GeneratedSubject(Subject):
    """Base class of subjects that generate images for the captions of the data."""

    generate: GenerateFunction

    def extract(self, extractor: DistributedExtractor, reference: Reference, protocol: Protocol) -> SubjectInputs:
        if not reference.source.is_captioned:
            raise DataError(reference.source.explain_no_captions())
        selection = Selection.draw(reference, protocol)
        real = load_or_compute(extractor, reference, selection.chosen, protocol)
        protocol_fields = {
            "images": len(selection.pairs),
            "captions": f"one each of {len(selection.chosen):,} images of the split, drawn at random by the seed",
            "per_caption": protocol.per_caption,
            "real_images": len(selection.chosen),
            "kept": protocol.kept,
            "shuffle": "captions in random order by the seed",
            "truncation": protocol.truncation,
        }
        return SubjectInputs(
            selection.generate_inputs(self.generate, extractor, real),
            self.describe(),
            protocol_fields,
            self.list_warnings(extractor.extractor),
        )

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """Describe the subject, for the record of its scores."""

    def list_warnings(self, extractor: Extractor) -> list[str]:
        """List warnings about misleading scores."""
        return []


class RunSubject(GeneratedSubject):
    """A trained run.

    Args:
        run: folder of the run.
        checkpoint: "best", the number of images after which a checkpoint was written, or None for the last model.
        protocol: protocol of the scores, which sets the truncation of the noise.
        state: Accelerate's state of this process.
    """

    def __init__(self, run: str, checkpoint: str | None, protocol: Protocol, state: PartialState):
        self.run, self.checkpoint = Run(run), checkpoint
        self.name = run if checkpoint is None else f"{run} ({checkpoint})"
        self.pipeline = Pipeline.from_run(self.run.path, state.device, checkpoint=checkpoint)
        self.config = self.run.read_config()
        self.resolution = self.pipeline.resolution
        self.generate = adapt_pipeline(self.pipeline, protocol.truncation)

    def open_source(self, data: Mapping[str, Any] | None, options: Mapping[str, Any]) -> Source:
        return open_data(data or self.config.data.to_dict(), options)

    def choose_size(self, source: Source) -> int:
        return build.compute_load_size(self.config, self.pipeline.stage, source)

    def describe(self) -> dict[str, Any]:
        best = self.run.read_best() if self.checkpoint == "best" else None
        weights = "averaged (EMA)" if self.config.train.ema_half_life else "current"
        images_seen = max((row["images"] for row in self.run.read_metrics()), default=None)
        if best is not None:
            images_seen = best["images"]
            weights += f", best {best['protocol'].get('metric')} in training, after {images_seen:,} images"
        elif self.checkpoint is not None:
            images_seen = int(self.checkpoint)
            weights += f", after {images_seen:,} images"
        return {"run": str(self.run), "weights": weights, "images_seen": images_seen, "generated_at": self.resolution}

    def list_warnings(self, extractor: Extractor) -> list[str]:
        record = self.run.read_record()
        warnings = _warn_of_flattery(self.name, record.features, extractor)
        if any(part.name == "damsm" for part in self.config.penalties):
            warnings += _warn_of_damsm(f"{self.name} was", record.encoder, extractor)
        return warnings


class ModelSubject(GeneratedSubject):
    """A model that is not a run: a model folder, a shipped model, or one of the Hugging Face Hub.

    Args:
        model: name of the model (see `Pipeline.from_pretrained`).
        protocol: protocol of the scores, which sets the truncation of the noise.
        state: Accelerate's state of this process.
    """

    def __init__(self, model: str, protocol: Protocol, state: PartialState):
        self.name, self.pipeline = model, Pipeline.from_pretrained(model, state.device)
        self.resolution = self.pipeline.resolution
        self.generate = adapt_pipeline(self.pipeline, protocol.truncation)
        assert self.pipeline.record is not None
        self.history = self.pipeline.record.history

    def open_source(self, data: Mapping[str, Any] | None, options: Mapping[str, Any]) -> Source:
        if data is None and self.history.data not in registry.list_parts("data"):
            raise ConfigError(
                f"{self.name} was trained on {self.history.data or 'unnamed data'}, whose folder a model does not "
                "record; name the data to compare with: `data=DIR`."
            )
        return open_data(data or {"name": self.history.data}, options)

    def choose_size(self, source: Source) -> int:
        assert self.pipeline.record is not None
        return build.clamp_size(round(self.resolution * self.pipeline.record.stage.load_ratio), source)

    def describe(self) -> dict[str, Any]:
        return {
            "model": self.name,
            "weights": "as shared",
            "images_seen": self.history.images,
            "generated_at": self.resolution,
        }

    def list_warnings(self, extractor: Extractor) -> list[str]:
        assert self.pipeline.record is not None
        warnings = _warn_of_flattery(self.name, self.history.features, extractor)
        return warnings + _warn_of_damsm(f"{self.name} may have been", self.pipeline.record.encoder, extractor)


def open_trained(name: str, checkpoint: str | None, protocol: Protocol, state: PartialState) -> GeneratedSubject:
    """Open a run or a model.

    Args:
        name: name of the model or folder of the run.
        checkpoint: checkpoint of a run.
        protocol: protocol of the scores.
        state: Accelerate's state of this process.

    Raises:
        ConfigError: `checkpoint` is set for a model, which has none.
    """
    if not is_model(find_model(name)):
        return RunSubject(name, checkpoint, protocol, state)
    if checkpoint is not None:
        raise ConfigError(f"`checkpoint={checkpoint}` applies to runs; the model {name} has no checkpoints.")
    return ModelSubject(name, protocol, state)


def _warn_of_flattery(name: str, features: Mapping[str, str] | None, extractor: Extractor) -> list[str]:
    """Return a warning, as a list, if a model was trained against a network of the extractor's family."""
    if features is None or not extractor.family or extractor.family != features.get("family"):
        return []
    return [
        f"{name} was trained against {features.get('name')}, and this extractor belongs to the same family "
        f"({extractor.family}): its scores flatter the model (Kynkäänniemi et al. 2023). Use another extractor, such "
        "as `extractor=domain`."
    ]


def _warn_of_damsm(subject: str, encoder: str, extractor: Extractor) -> list[str]:
    """Return a warning, as a list, if a model's text encoder is the extractor's, against which a penalty trains."""
    if not extractor.text_encoder or extractor.text_encoder != encoder:
        return []
    return [
        f"{subject} trained against this extractor by the penalty damsm: its R-precision and similarity flatter the "
        "model. Use another extractor, such as `extractor=domain`."
    ]


class FunctionSubject(GeneratedSubject):
    """A Python function that generates images.

    Args:
        function: maps captions and a seed to images uint8 `(N, 3, R, R)`, one per caption. It may be called with few
            captions at a time.
        resolution: R.
        name: name that is recorded with the scores.
    """

    def __init__(self, function: ImageFunction, resolution: int, name: str):
        self.function, self.resolution, self.name = function, resolution, name

    def open_source(self, data: Mapping[str, Any] | None, options: Mapping[str, Any]) -> Source:
        return open_data(data, options)

    def describe(self) -> dict[str, Any]:
        return {"function": self.name, "generated_at": self.resolution}

    def generate(
        self, captions: Sequence[str], *, per_caption: int, seed: int, part: tuple[int, int]
    ) -> Iterator[Tensor]:
        """Generate images as `GenerateFunction` does.

        Each block of captions has its own seed: the noise does not repeat, and does not depend on the number of
        processes.
        """
        indices = share(len(captions) * per_caption, part)
        for number in range(indices.start // BATCH_SIZE, -(-indices.stop // BATCH_SIZE)):
            rows = range(number * BATCH_SIZE, min((number + 1) * BATCH_SIZE, len(captions) * per_caption))
            block_seed = create_rng(seed, 12, number).initial_seed() % 2**31
            images = self.function([captions[row // per_caption] for row in rows], block_seed)
            shape = (len(rows), 3, self.resolution, self.resolution)
            if not isinstance(images, Tensor) or images.dtype != torch.uint8 or tuple(images.shape) != shape:
                actual = (
                    f"{images.dtype} {tuple(images.shape)}" if isinstance(images, Tensor) else type(images).__name__
                )
                raise DataError(
                    f"{self.name} returned {actual} for {len(rows)} captions; expected a uint8 tensor of shape {shape}."
                )
            yield images[max(indices.start - rows.start, 0) : indices.stop - rows.start]

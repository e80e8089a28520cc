"""What `eval` and a training that is scored share: the extractor on all processes, the captions and real images of a split."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from torch import Tensor

from stackflower import registry
from stackflower.commands.train_classifier import own_classifier
from stackflower.config.schema import Part, RunConfig
from stackflower.data.source import Source
from stackflower.errors import ConfigError, DataError
from stackflower.evaluation import real_features
from stackflower.evaluation.extractors.base import Extracted, Extractor
from stackflower.evaluation.metrics.base import Sample
from stackflower.evaluation.protocol import Protocol
from stackflower.evaluation.reference import Reference
from stackflower.evaluation.scoring import score
from stackflower.pipeline import Pipeline
from stackflower.text.base import TextEncoder
from stackflower.training.accelerator import process_state
from stackflower.training.networks import Networks
from stackflower.utils.progress import Bar, bar, silent


class Workers:
    """The extractor on every process: each extracts its share, and all get everything."""

    def __init__(self, extractor: Extractor, state: PartialState):
        self.extractor, self.state = extractor, state

    @property
    def part(self) -> tuple[int, int]:
        """(k, n): this process's share is the k-th of n."""
        return self.state.process_index, self.state.num_processes

    def all(self, mine: list[Any]) -> list[Any]:
        """This process's items and all others', in the order of processes."""
        return mine if self.state.num_processes == 1 else gather_object(mine)

    def gathered(self, batches: Iterable[Tensor]) -> Extracted | None:
        """Of this process's batches, uint8 (n, 3, H, W), and all others', in the order of processes; None if there are none."""
        every = self.all([self.extractor(batch) for batch in batches])
        return Extracted.concatenate(every) if every else None

    def __call__(self, images: Tensor) -> Extracted:
        """Of images that every process has."""
        index, count = self.part
        first, last = len(images) * index // count, len(images) * (index + 1) // count
        found = self.gathered([images[first:last]] if last > first else [])
        assert found is not None, "there are images"
        return found

    def real(self, reference: Reference, rows: Tensor) -> Extracted:
        """Of real images of a split, by number (n,), from the cache if they are there for all processes."""
        path = real_features.file_of(self.extractor, reference, rows)
        known = real_features.load(path)
        everywhere = all(self.all([known is not None]))
        if known is not None and everywhere:
            return known
        found = self(reference.data.centre(reference.resolution, rows))
        if self.state.is_main_process:
            real_features.save(found, path)
        return found


def choose_extractor(
    name: str | None, options: Mapping[str, Any], source: Source, resolution: int, display: Bar
) -> Extractor:
    """The extractor by name, or the one that suits the source: its domain classifier, where one can be had without asking."""
    own, weights = source.classifier_data(), options.get("weights")
    name = name or ("domain" if weights or own else "inception-v3")
    if name == "domain" and weights is None:
        if own is None:
            raise DataError(
                "The extractor 'domain' needs a classifier of this data: `stackflower train-classifier --data DIR --out FILE` "
                "makes one, then --extractor domain --weights FILE. Or --extractor inception-v3."
            )
        options = {**options, "weights": str(own_classifier(own, resolution, display))}
    extractor: Extractor = Part(name, options).create("extractor")
    return extractor


def open_split(
    protocol: Protocol,
    extractor_name: str | None,
    options: Mapping[str, Any],
    source: Source,
    resolution: int,
    size: int,
    state: PartialState,
) -> tuple[Workers, Reference]:
    """The extractor on the processes' devices, and the split to compare with; the first process makes what is missing."""
    display = bar if state.is_main_process else silent
    with state.main_process_first():
        reference = Reference.open(source, protocol.split, resolution, size, display)
        extractor = choose_extractor(extractor_name, options, source, resolution, display)
    extractor.to(state.device)
    return Workers(extractor, state), reference


@dataclass(frozen=True)
class Picked:
    """The captions and real images of a split that a run is scored with."""

    reference: Reference
    protocol: Protocol
    pairs: list[tuple[int, int]]  # of each generated image: number of a real image and of its caption

    @classmethod
    def of(cls, reference: Reference, protocol: Protocol) -> Picked:
        """Those that the protocol draws."""
        images, numbers = reference.choose(protocol.samples, protocol.seed)
        return cls(reference, protocol, list(zip(images, numbers, strict=True)))

    @property
    def captions(self) -> list[str]:
        return [self.reference.data.captions[image][number] for image, number in self.pairs]

    @property
    def chosen(self) -> Tensor:
        """(n,) numbers of the real images, each once."""
        return torch.tensor(list(dict.fromkeys(image for image, _ in self.pairs)))

    def sample(self, pipeline: Pipeline, workers: Workers, real: Extracted) -> Sample:
        """What metrics are computed from: images generated now beside what was extracted of the real ones."""

        def generate(captions: Sequence[str], per_caption: int, seed: int) -> Extracted:
            batches = pipeline.generate(
                captions, per_caption=per_caption, seed=seed, truncation=self.protocol.truncation, part=workers.part
            )
            found = workers.gathered(batch.permute(0, 3, 1, 2) for batch in batches)
            assert found is not None, "there are captions"
            return found

        return Sample(
            fake=generate(self.captions, 1, self.protocol.seed),
            real=real,
            protocol=self.protocol,
            reference=self.reference,
            attributes=workers.extractor.attributes,
            extract=workers,
            captions=self.pairs,
            generate=generate,
            original_inception=workers.extractor.original,
        )


class TrainingScorer:
    """Scores of networks in training on the held-out split: those that `stackflower eval --split` gives for the same weights.

    Args:
        config: of the run; its `output` says which metrics, of how many images, by which extractor.
        source: the data set. ConfigError where it has no held-out split.
        resolution: of the images.
        size: px at which the split is prepared.
        encoder: the text encoder, where it is not among the networks.
    """

    def __init__(self, config: RunConfig, source: Source, resolution: int, size: int, encoder: TextEncoder):
        output, split = config.output, source.held_out()
        if split is None:
            raise ConfigError(
                "--eval-every scores images that training does not see, and this data has no split validation or test: add one, or "
                "leave it out."
            )
        metric: Any = registry.get("metric", output.best)
        self.measure, self.lower_is_better = str(metric.measure), bool(metric.lower_is_better)
        self.state = process_state()
        protocol = Protocol(metrics=output.eval_metrics, split=split, samples=output.eval_samples)
        options = {} if output.eval_weights is None else {"weights": output.eval_weights}
        self.workers, reference = open_split(
            protocol, output.eval_extractor, options, source, resolution, size, self.state
        )
        images = len(Picked.of(reference, protocol).pairs)
        self.picked = Picked.of(reference, replace(protocol, splits=max(1, min(protocol.splits, images))))
        self.real = self.workers.real(reference, self.picked.chosen)
        self.protocol = {
            "metric": output.best,
            **self.workers.extractor.describe(),
            **reference.describe(),
            "images": len(self.picked.captions),
        }
        self.encoder = encoder
        self._try()

    def _try(self) -> None:
        """ConfigError where a metric can't be computed, before any training: the real images stand for generated ones."""
        picked, place = self.picked, {image: row for row, image in enumerate(self.picked.chosen.tolist())}

        def some(captions: Sequence[str], each: int, seed: int) -> Extracted:
            return self.real.rows(torch.arange(len(captions) * each) % len(self.real.features))

        sample = Sample(
            fake=self.real.rows(torch.tensor([place[image] for image, _ in picked.pairs])),
            real=self.real,
            protocol=picked.protocol,
            reference=picked.reference,
            attributes=self.workers.extractor.attributes,
            extract=self.workers,
            captions=picked.pairs,
            generate=some,
        )
        try:
            score(sample)
        except (ConfigError, DataError) as error:
            raise ConfigError(
                f"--eval-every can't score this data as asked: {error} Change --set output.eval_metrics, output.eval_samples or "
                "output.eval_extractor, or leave --eval-every out."
            ) from error

    def __call__(self, networks: Networks) -> dict[str, float]:
        """Every number among the scores of the averaged networks, by name."""
        encoder = self.encoder if networks.text is None else networks.averaged_encoder
        pipeline = Pipeline(networks.ema.module, encoder, self.state.device)
        found = score(self.picked.sample(pipeline, self.workers, self.real))
        return {name: value for name, value in found.items() if isinstance(value, float)}

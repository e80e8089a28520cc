"""What `eval` and a training that is scored share: the extractor on all processes, the captions and real images of a split."""

from __future__ import annotations

import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from torch import Tensor

from stackflower.config.schema import Part
from stackflower.data.source import Source
from stackflower.errors import DataError
from stackflower.evaluation import real_features
from stackflower.evaluation.classifier.training import get_source_classifier
from stackflower.evaluation.extractors.base import Extracted, Extractor
from stackflower.evaluation.metrics.base import Sample
from stackflower.evaluation.protocol import Protocol
from stackflower.evaluation.reference import Reference
from stackflower.evaluation.statistics import Statistics
from stackflower.pipeline import Pipeline
from stackflower.utils.distributed import share
from stackflower.utils.rng import seeded

BATCH = 64  # images that are generated and extracted at a time


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
        mine = share(len(images), self.part)
        found = self.gathered([images[mine.start : mine.stop]] if mine else [])
        assert found is not None, "there are images"
        return found

    def statistics(self, placed: Iterable[tuple[Tensor, Tensor]], total: int, protocol: Protocol) -> Statistics:
        """Of `total` images: this process's batches, uint8 (n, 3, H, W), each after the places (n,) of its images in a random order, and all
        others'. They are extracted as they come, and nothing is kept that grows with their number."""
        mine = Statistics(total, protocol.splits, protocol.kept)
        for places, batch in placed:
            mine.add(self.extractor(batch), places)
        every = self.all([mine])
        every[0].merge(every[1:])
        found: Statistics = every[0]
        return found

    def real(self, reference: Reference, rows: Tensor, protocol: Protocol) -> Statistics:
        """Of real images of a split, by number (n,), from the cache if they are there for all processes."""
        path = real_features.file_of(self.extractor, reference, rows, protocol)
        known = real_features.load(path)
        everywhere = all(self.all([known is not None]))
        if known is not None and everywhere:
            return known
        found = self.of_split(reference, rows, protocol)
        if self.state.is_main_process:
            real_features.save(found, path)
        return found

    def of_split(self, reference: Reference, rows: Tensor, protocol: Protocol) -> Statistics:
        """Of real images of a split, by number (n,), extracted now."""
        mine = share(len(rows), self.part)
        parts = rows[mine.start : mine.stop].split(BATCH) if mine else ()
        batches = (reference.data.centre(reference.resolution, part) for part in parts)
        return self.statistics(placed(batches, mine.start), len(rows), protocol)

    def training(self, reference: Reference, protocol: Protocol) -> Statistics | None:
        """Of the training split, at most `Protocol.kept` of its images; None where that is the split of the reference."""
        if reference.split == "train":
            return None
        with self.state.main_process_first():
            size = reference.data.images.shape[1]
            training = Reference.open(reference.source, "train", reference.resolution, size)
        order = torch.randperm(len(training.data.rows), generator=seeded(protocol.seed, 10))[: protocol.kept]
        return self.real(training, order, replace(protocol, splits=1))

    def sample(self, reference: Reference, protocol: Protocol, **found: Any) -> Sample:
        """What metrics are computed from: the other fields of `Sample` beside what the extractor and the split give."""
        return Sample(
            protocol=protocol,
            reference=reference,
            attributes=self.extractor.attributes,
            extract=self,
            embed=self.extractor.embed,
            training=lambda: self.training(reference, protocol),
            original_inception=self.extractor.original,
            **found,
        )


def choose_extractor(name: str | None, options: Mapping[str, Any], source: Source, resolution: int) -> Extractor:
    """The extractor by name, or the one that suits the source: its domain classifier, where one can be had without asking."""
    own, weights = source.classifier_data(), options.get("weights")
    name = name or ("domain" if weights or own else "inception-v3")
    if name == "domain" and weights is None:
        if own is None:
            raise DataError(
                "The extractor 'domain' needs a classifier of this data: train one with `stackflower train-classifier`, then give "
                "`weights=FILE`. Or use `extractor=inception-v3`."
            )
        options = {**options, "weights": str(get_source_classifier(own, resolution))}
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
    with state.main_process_first():
        reference = Reference.open(source, protocol.split, resolution, size)
        extractor = choose_extractor(extractor_name, options, source, resolution)
    extractor.to(state.device)
    return Workers(extractor, state), reference


class Generate(typing.Protocol):
    """What can be scored by captions."""

    def __call__(
        self, captions: Sequence[str], *, per_caption: int, seed: int, part: tuple[int, int]
    ) -> Iterator[Tensor]:
        """Images uint8 (n, 3, R, R) batch by batch, caption by caption, `per_caption` of each; of the k-th of n equal shares, `part`
        being (k, n)."""


@dataclass(frozen=True)
class Picked:
    """The captions and real images of a split that a run is scored with."""

    reference: Reference
    protocol: Protocol
    pairs: list[tuple[int, int]]  # of each generated image: number of a real image and of its caption

    @classmethod
    def of(cls, reference: Reference, protocol: Protocol) -> Picked:
        """Those that the protocol draws; with several images a caption, all captions come once before any comes again."""
        drawn = list(zip(*reference.choose(protocol.samples, protocol.seed), strict=True))
        generator = seeded(protocol.seed, 11)
        again = [torch.randperm(len(drawn), generator=generator).tolist() for _ in range(protocol.per_caption - 1)]
        return cls(reference, protocol, drawn + [drawn[place] for order in again for place in order])

    @property
    def captions(self) -> list[str]:
        return [self.reference.data.captions[image][number] for image, number in self.pairs]

    @property
    def chosen(self) -> Tensor:
        """(n,) numbers of the real images, each once."""
        return torch.tensor(list(dict.fromkeys(image for image, _ in self.pairs)))

    def sample(self, generate: Generate, workers: Workers, real: Statistics) -> Sample:
        """What metrics are computed from: images generated now beside what is known of the real ones."""

        def images(captions: Sequence[str], per_caption: int, seed: int) -> Iterator[Tensor]:
            yield from workers.all(
                [batch.cpu() for batch in generate(captions, per_caption=per_caption, seed=seed, part=workers.part)]
            )

        def extracted(captions: Sequence[str], per_caption: int, seed: int) -> Extracted:
            found = workers.gathered(generate(captions, per_caption=per_caption, seed=seed, part=workers.part))
            assert found is not None, "there are captions"
            return found

        first = share(len(self.pairs), workers.part).start
        batches = placed(generate(self.captions, per_caption=1, seed=self.protocol.seed, part=workers.part), first)
        return workers.sample(
            self.reference,
            self.protocol,
            fake=workers.statistics(batches, len(self.pairs), self.protocol),
            real=real,
            captions=self.captions,
            pairs=self.pairs,
            chosen=self.chosen.tolist(),
            generate=extracted,
            images=images,
        )


def placed(batches: Iterable[Tensor], first: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches after the places of their images, which follow one another from `first`."""
    for batch in batches:
        yield torch.arange(first, first + len(batch)), batch
        first += len(batch)


def generated_by(pipeline: Pipeline, truncation: float | None) -> Generate:
    """What a pipeline generates, for scores."""

    def generate(captions: Sequence[str], *, per_caption: int, seed: int, part: tuple[int, int]) -> Iterator[Tensor]:
        batches = pipeline.generate(
            captions, per_caption=per_caption, seed=seed, truncation=truncation, part=part, batch_size=BATCH
        )
        return (batch.permute(0, 3, 1, 2) for batch in batches)

    return generate

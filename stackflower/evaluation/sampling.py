"""Build the inputs of metrics from generated and real images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from typing import Protocol as Interface

import torch
from torch import Tensor

from stackflower.evaluation.extraction import BATCH_SIZE, DistributedExtractor, number_images
from stackflower.evaluation.extractors.base import Extracted
from stackflower.evaluation.metrics.base import MetricInputs
from stackflower.evaluation.protocol import Protocol
from stackflower.evaluation.real_statistics import load_training_statistics
from stackflower.evaluation.reference import Reference
from stackflower.evaluation.statistics import Statistics
from stackflower.pipeline import Pipeline
from stackflower.utils.rng import create_rng


class GenerateFunction(Interface):
    """A function that generates images for captions."""

    def __call__(
        self, captions: Sequence[str], *, per_caption: int, seed: int, part: tuple[int, int]
    ) -> Iterator[Tensor]:
        """Generate images, batch by batch and caption by caption.

        Args:
            captions: captions to generate images for.
            per_caption: number of images per caption.
            seed: random seed.
            part: (k, n) to generate the k-th of n equal shares.

        Returns:
            Batches, uint8 `(n, 3, R, R)`.
        """


@dataclass(frozen=True)
class Selection:
    """The captions and real images of a split that a subject is scored with."""

    reference: Reference
    protocol: Protocol
    pairs: list[tuple[int, int]]  # for each generated image: numbers of a real image and of its caption

    @classmethod
    def draw(cls, reference: Reference, protocol: Protocol) -> Selection:
        """Draw captions and real images according to the protocol.

        With several images per caption, each caption is used once before any is repeated.
        """
        drawn = list(zip(*reference.choose(protocol.samples, protocol.seed), strict=True))
        generator = create_rng(protocol.seed, 11)
        repeats = [torch.randperm(len(drawn), generator=generator).tolist() for _ in range(protocol.per_caption - 1)]
        return cls(reference, protocol, drawn + [drawn[place] for order in repeats for place in order])

    @property
    def captions(self) -> list[str]:
        """The caption of each generated image."""
        return [self.reference.data.captions[image][number] for image, number in self.pairs]

    @property
    def chosen(self) -> Tensor:
        """Numbers `(n,)` of the real images, without duplicates."""
        return torch.tensor(list(dict.fromkeys(image for image, _ in self.pairs)))

    def generate_inputs(
        self, generate: GenerateFunction, extractor: DistributedExtractor, real: Statistics
    ) -> MetricInputs:
        """Generate images for the captions, and build the inputs of metrics.

        Args:
            generate: function that generates the images.
            extractor: feature extractor.
            real: statistics of the real images.
        """
        processes = extractor.processes

        def generate_images(captions: Sequence[str], per_caption: int, seed: int) -> Iterator[Tensor]:
            batches = generate(captions, per_caption=per_caption, seed=seed, part=processes.part)
            yield from processes.gather([batch.cpu() for batch in batches])

        def generate_features(captions: Sequence[str], per_caption: int, seed: int) -> Extracted:
            batches = generate(captions, per_caption=per_caption, seed=seed, part=processes.part)
            return extractor.extract_batches(batches)

        first = processes.share(len(self.pairs)).start
        batches = generate(self.captions, per_caption=1, seed=self.protocol.seed, part=processes.part)
        return build_inputs(
            extractor,
            self.reference,
            self.protocol,
            fake=extractor.compute_statistics(number_images(batches, first), len(self.pairs), self.protocol),
            real=real,
            captions=self.captions,
            pairs=self.pairs,
            chosen=self.chosen.tolist(),
            generate=generate_features,
            images=generate_images,
        )


def build_inputs(
    extractor: DistributedExtractor, reference: Reference, protocol: Protocol, **fields: Any
) -> MetricInputs:
    """Build the inputs of metrics from the extractor, the split and further `fields` of `MetricInputs`."""
    return MetricInputs(
        protocol=protocol,
        reference=reference,
        attributes=extractor.extractor.attributes,
        extract=extractor.extract,
        embed=extractor.extractor.embed,
        training=lambda: load_training_statistics(extractor, reference, protocol),
        original_inception=extractor.extractor.original,
        **fields,
    )


def adapt_pipeline(pipeline: Pipeline, truncation: float | None) -> GenerateFunction:
    """Wrap a pipeline as a function that generates images for captions."""

    def generate(captions: Sequence[str], *, per_caption: int, seed: int, part: tuple[int, int]) -> Iterator[Tensor]:
        batches = pipeline.generate(
            captions, per_caption=per_caption, seed=seed, truncation=truncation, part=part, batch_size=BATCH_SIZE
        )
        return (batch.permute(0, 3, 1, 2) for batch in batches)

    return generate

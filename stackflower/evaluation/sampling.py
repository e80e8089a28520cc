"""Build the sample that metrics are computed from: generated images beside real ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from typing import Protocol as Interface

import torch
from torch import Tensor

from stackflower.evaluation.extraction import BATCH, DistributedExtractor, number_images
from stackflower.evaluation.extractors.base import Extracted
from stackflower.evaluation.metrics.base import Sample
from stackflower.evaluation.protocol import Protocol
from stackflower.evaluation.real_statistics import compute_of_training
from stackflower.evaluation.reference import Reference
from stackflower.evaluation.statistics import Statistics
from stackflower.pipeline import Pipeline
from stackflower.utils.rng import create_rng


class Generate(Interface):
    """What can be scored by captions."""

    def __call__(
        self, captions: Sequence[str], *, per_caption: int, seed: int, part: tuple[int, int]
    ) -> Iterator[Tensor]:
        """Generate images, batch by batch and caption by caption.

        Args:
            captions: what to generate.
            per_caption: images per caption.
            seed: random seed.
            part: (k, n) for the k-th of n equal shares.

        Returns:
            Batches, uint8 (n, 3, R, R).
        """


@dataclass(frozen=True)
class Picked:
    """The captions and real images of a split that a run is scored with."""

    reference: Reference
    protocol: Protocol
    pairs: list[tuple[int, int]]  # of each generated image: number of a real image and of its caption

    @classmethod
    def of(cls, reference: Reference, protocol: Protocol) -> Picked:
        """Pick those that the protocol draws.

        With several images per caption, all captions come once before any comes again.
        """
        drawn = list(zip(*reference.choose(protocol.samples, protocol.seed), strict=True))
        generator = create_rng(protocol.seed, 11)
        again = [torch.randperm(len(drawn), generator=generator).tolist() for _ in range(protocol.per_caption - 1)]
        return cls(reference, protocol, drawn + [drawn[place] for order in again for place in order])

    @property
    def captions(self) -> list[str]:
        """The caption of each generated image."""
        return [self.reference.data.captions[image][number] for image, number in self.pairs]

    @property
    def chosen(self) -> Tensor:
        """(n,) numbers of the real images, each once."""
        return torch.tensor(list(dict.fromkeys(image for image, _ in self.pairs)))

    def generate_sample(self, generate: Generate, extractor: DistributedExtractor, real: Statistics) -> Sample:
        """Generate images for the captions, and build the sample of them and the statistics of the real ones."""
        processes = extractor.processes

        def generate_images(captions: Sequence[str], per_caption: int, seed: int) -> Iterator[Tensor]:
            batches = generate(captions, per_caption=per_caption, seed=seed, part=processes.part)
            yield from processes.gather([batch.cpu() for batch in batches])

        def generate_features(captions: Sequence[str], per_caption: int, seed: int) -> Extracted:
            batches = generate(captions, per_caption=per_caption, seed=seed, part=processes.part)
            return extractor.extract_batches(batches)

        first = processes.share(len(self.pairs)).start
        batches = generate(self.captions, per_caption=1, seed=self.protocol.seed, part=processes.part)
        return build_sample(
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


def build_sample(extractor: DistributedExtractor, reference: Reference, protocol: Protocol, **fields: Any) -> Sample:
    """Build a sample of `fields` and of what the extractor and the split provide."""
    return Sample(
        protocol=protocol,
        reference=reference,
        attributes=extractor.extractor.attributes,
        extract=extractor.extract,
        embed=extractor.extractor.embed,
        training=lambda: compute_of_training(extractor, reference, protocol),
        original_inception=extractor.extractor.original,
        **fields,
    )


def generate_by_pipeline(pipeline: Pipeline, truncation: float | None) -> Generate:
    """Return the function by which a pipeline generates what is scored."""

    def generate(captions: Sequence[str], *, per_caption: int, seed: int, part: tuple[int, int]) -> Iterator[Tensor]:
        batches = pipeline.generate(
            captions, per_caption=per_caption, seed=seed, truncation=truncation, part=part, batch_size=BATCH
        )
        return (batch.permute(0, 3, 1, 2) for batch in batches)

    return generate

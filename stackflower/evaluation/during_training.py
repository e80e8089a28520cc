"""Scores of a training as it goes on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from stackflower import registry
from stackflower.config.schema import RunConfig
from stackflower.data.source import Source
from stackflower.errors import ConfigError, DataError
from stackflower.evaluation.extractors.base import Extracted
from stackflower.evaluation.opening import open_split
from stackflower.evaluation.protocol import Protocol
from stackflower.evaluation.real_statistics import load_or_compute
from stackflower.evaluation.sampling import Picked, build_sample, generate_by_pipeline
from stackflower.evaluation.scoring import score
from stackflower.evaluation.statistics import Statistics
from stackflower.pipeline import Pipeline
from stackflower.stages.base import Stage
from stackflower.text.base import TextEncoder
from stackflower.utils.devices import get_process_state


class TrainingScorer:
    """Scores of networks in training on the held-out split: the same that `evaluate` gives for the same weights.

    Args:
        config: of the run; its `output` says which metrics, of how many images, by which extractor.
        source: the data set. ConfigError where it has no held-out split.
        resolution: of the images.
        size: px at which the split is prepared.
        encoder: the text encoder, where it is not among the networks.
    """

    def __init__(self, config: RunConfig, source: Source, resolution: int, size: int, encoder: TextEncoder):
        output, split = config.output, source.get_held_out_split()
        if split is None:
            raise ConfigError(
                "`output.eval_every` scores images that training does not see, and this data has no split validation "
                "or test: add one, or leave it out."
            )
        metric: Any = registry.get("metric", output.best)
        self.measure, self.lower_is_better = str(metric.measure), bool(metric.lower_is_better)
        self.state = get_process_state()
        protocol = Protocol(metrics=output.eval_metrics, split=split, samples=output.eval_samples)
        options = {} if output.eval_weights is None else {"weights": output.eval_weights}
        self.extractor, reference = open_split(
            protocol, output.eval_extractor, options, source, resolution, size, self.state
        )
        picked = Picked.of(reference, protocol)
        self.picked = replace(
            picked, protocol=replace(protocol, splits=max(1, min(protocol.splits, len(picked.pairs))))
        )
        self.real = load_or_compute(self.extractor, reference, self.picked.chosen, self.picked.protocol)
        self.protocol = {
            "metric": output.best,
            **self.extractor.extractor.describe(),
            **reference.describe(),
            "images": len(self.picked.captions),
        }
        self.encoder = encoder
        self._try()

    def _try(self) -> None:
        """Raise ConfigError where a metric can't be computed, before any training, by scoring real images."""
        picked, place = self.picked, {image: row for row, image in enumerate(self.picked.chosen.tolist())}

        def some(captions: Sequence[str], each: int, seed: int) -> Extracted:
            return rows.rows(torch.arange(len(captions) * each) % len(rows.features))

        def images(captions: Sequence[str], each: int, seed: int) -> Iterator[Tensor]:
            yield picked.reference.data.crop_centre(
                picked.reference.resolution, torch.zeros(len(captions) * each, dtype=torch.int64)
            )

        rows = self.real.rows
        order = torch.tensor([place[image] for image, _ in picked.pairs])
        order = order[order < len(rows.features)]
        sample = build_sample(
            self.extractor,
            picked.reference,
            picked.protocol,
            fake=Statistics.of(rows.rows(order), picked.protocol.splits),
            real=self.real,
            captions=picked.captions,
            pairs=picked.pairs,
            chosen=picked.chosen.tolist(),
            generate=some,
            images=images,
        )
        try:
            score(sample)
        except (ConfigError, DataError) as error:
            raise ConfigError(
                f"`output.eval_every` can't score this data: {error} Change output.eval_metrics, output.eval_samples "
                "or output.eval_extractor, or leave out `output.eval_every`."
            ) from error

    def __call__(self, stage: Stage, encoder: TextEncoder | None) -> dict[str, float]:
        """Return the numbers among the scores of a stage, by name; `encoder` replaces the one given before."""
        pipeline = Pipeline(stage, encoder or self.encoder, self.state.device)
        generate = generate_by_pipeline(pipeline, None)
        scores = score(self.picked.generate_sample(generate, self.extractor, self.real))
        return {name: value for name, value in scores.items() if isinstance(value, float)}

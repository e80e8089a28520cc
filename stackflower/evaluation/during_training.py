"""Score networks during their training."""

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
from stackflower.evaluation.opening import open_extractor_and_reference
from stackflower.evaluation.protocol import Protocol
from stackflower.evaluation.real_statistics import load_or_compute
from stackflower.evaluation.sampling import Selection, adapt_pipeline, build_inputs
from stackflower.evaluation.scoring import score
from stackflower.evaluation.statistics import Statistics
from stackflower.pipeline import Pipeline
from stackflower.stages.base import Stage
from stackflower.text.base import TextEncoder
from stackflower.utils.devices import get_process_state


class TrainingScorer:
    """Scorer of networks during their training, on the held-out split.

    The scores equal those of `evaluate` for the same weights.

    Args:
        config: configuration of the run; its `output` sets the metrics, the number of images and the extractor.
        source: data set of the run.
        resolution: height and width of the images, in pixels.
        size: size in pixels at which the split is prepared.
        encoder: text encoder, unless it is trained with the networks.

    Raises:
        ConfigError: the data set has no held-out split, or a metric can't be computed.
    """

    def __init__(self, config: RunConfig, source: Source, resolution: int, size: int, encoder: TextEncoder):
        output, split = config.output, source.get_held_out_split()
        if split is None:
            raise ConfigError(
                "`output.eval_every` needs a held-out split, and this data has no split validation or test. Add one, "
                "or leave out `output.eval_every`."
            )
        metric: Any = registry.get("metric", output.best)
        self.measure, self.lower_is_better = str(metric.measure), bool(metric.lower_is_better)
        self.state = get_process_state()
        protocol = Protocol(metrics=output.eval_metrics, split=split, samples=output.eval_samples)
        options = {} if output.eval_weights is None else {"weights": output.eval_weights}
        self.extractor, reference = open_extractor_and_reference(
            protocol, output.eval_extractor, options, source, resolution, size, self.state
        )
        selection = Selection.draw(reference, protocol)
        self.selection = replace(
            selection, protocol=replace(protocol, splits=max(1, min(protocol.splits, len(selection.pairs))))
        )
        self.real = load_or_compute(self.extractor, reference, self.selection.chosen, self.selection.protocol)
        self.protocol = {
            "metric": output.best,
            **self.extractor.extractor.describe(),
            **reference.describe(),
            "images": len(self.selection.captions),
        }
        self.encoder = encoder
        self._check_metrics()

    def _check_metrics(self) -> None:
        """Score real images before training starts; raise ConfigError if a metric can't be computed."""
        selection, row_of = self.selection, {image: row for row, image in enumerate(self.selection.chosen.tolist())}

        def generate_features(captions: Sequence[str], per_caption: int, seed: int) -> Extracted:
            return rows.rows(torch.arange(len(captions) * per_caption) % len(rows.features))

        def generate_images(captions: Sequence[str], per_caption: int, seed: int) -> Iterator[Tensor]:
            yield selection.reference.data.crop_centre(
                selection.reference.resolution, torch.zeros(len(captions) * per_caption, dtype=torch.int64)
            )

        rows = self.real.rows
        order = torch.tensor([row_of[image] for image, _ in selection.pairs])
        order = order[order < len(rows.features)]
        inputs = build_inputs(
            self.extractor,
            selection.reference,
            selection.protocol,
            fake=Statistics.of(rows.rows(order), selection.protocol.splits),
            real=self.real,
            captions=selection.captions,
            pairs=selection.pairs,
            chosen=selection.chosen.tolist(),
            generate=generate_features,
            images=generate_images,
        )
        try:
            score(inputs)
        except (ConfigError, DataError) as error:
            raise ConfigError(
                f"`output.eval_every` can't score this data: {error} Change output.eval_metrics, output.eval_samples "
                "or output.eval_extractor, or leave out `output.eval_every`."
            ) from error

    def __call__(self, stage: Stage, encoder: TextEncoder | None) -> dict[str, float]:
        """Score a stage.

        Args:
            stage: networks to score.
            encoder: text encoder to use instead of the one given at construction, or None.

        Returns:
            The scores that are numbers, by name.
        """
        pipeline = Pipeline(stage, encoder or self.encoder, self.state.device)
        generate = adapt_pipeline(pipeline, None)
        scores = score(self.selection.generate_inputs(generate, self.extractor, self.real))
        return {name: value for name, value in scores.items() if isinstance(value, float)}

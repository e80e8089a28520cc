"""Every registered metric on the same inputs."""

from __future__ import annotations

import math

import pytest
import torch

from stackflower import registry


@pytest.mark.parametrize("name", registry.list_parts("metric"))
def test_every_metric_is_finite_and_within_its_interval(name: str) -> None:
    """Of real images against themselves the scores are finite and can be printed; the same again are the same."""
    from stackflower.data.prepared import Prepared
    from stackflower.data.source import Rows
    from stackflower.evaluation.extractors.base import Extracted
    from stackflower.evaluation.metrics.base import MetricInputs
    from stackflower.evaluation.protocol import Protocol
    from stackflower.evaluation.reference import Reference
    from stackflower.evaluation.scoring import describe, score
    from stackflower.evaluation.statistics import Statistics

    torch.manual_seed(0)
    N = 120
    colours = ["red", "blue"] * (N // 2)
    captions = [[f"a {one} flower, number {number}"] for number, one in enumerate(colours)]
    rows = Rows(captions, [0, 1] * (N // 2), attributes={"colour": colours})
    source = registry.create("data", "synthetic-flowers", count=1)
    source.similar = lambda *_: None
    noise = lambda count: torch.randint(0, 256, (count, 3, 16, 16), dtype=torch.uint8)  # noqa: E731
    data = Prepared(noise(N).permute(0, 2, 3, 1), rows, "")

    def features(count: int) -> Extracted:
        found = torch.randn(count, 5)
        heads = {"colour": torch.nn.functional.one_hot(torch.arange(count) % 2).float()}
        return Extracted(found, found[:, :3], heads, torch.nn.functional.normalize(found, dim=1))

    outputs = features(N)
    real = Statistics.of(outputs, 2)
    inputs = MetricInputs(
        fake=real,
        real=real,
        protocol=Protocol(metrics=[name], splits=2),
        reference=Reference(source, "test", data, 16),
        attributes={"colour": ("red", "blue")},
        extract=lambda images: features(len(images)),
        embed=lambda captions: outputs.vectors[: len(captions)],
        captions=[captions[0] for captions in rows.captions],
        pairs=[(number, 0) for number in range(N)],
        chosen=range(N),
        generate=lambda captions, each, seed: features(len(captions) * each),
        images=lambda captions, each, seed: iter([noise(len(captions) * each)]),
        training=lambda: Statistics.of(features(30)),
    )
    scores = score(inputs)
    numbers = [v for v in scores.values() if isinstance(v, float)]
    numbers += [v for part in scores.values() if isinstance(part, dict) for v in part.values() if isinstance(v, float)]
    assert numbers and all(math.isfinite(value) for value in numbers)
    assert describe({**scores, "protocol": {"split": "test"}}).splitlines()[-1].split() == ["split", "test"]
    intervals = [(scores, key) for key in scores if key.endswith("_interval")]
    intervals += [
        (part, key) for part in scores.values() if isinstance(part, dict) for key in part if key.endswith("interval")
    ]
    assert intervals, "every score has an interval"
    for group, key in intervals:
        low, high = group[key]
        value = group[key.removesuffix("_interval") if key != "interval" else "value"]
        assert low <= value + 1e-9 and value - 1e-9 <= high, key
    if name in ("r-precision", "similarity"):
        assert scores["r_precision" if name == "r-precision" else "text_similarity"] == pytest.approx(1)
    if name == "captions":
        assert scores["caption_accuracy"]["colour"] == scores["caption_accuracy"]["all_mentioned"] == 1.0
    if name == "fid":
        assert scores["frechet_distance"] == pytest.approx(0, abs=1e-6)

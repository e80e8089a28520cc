"""Scores against closed forms, plain loops and other libraries."""

from __future__ import annotations

import math

import pytest
import torch

from stackflower.evaluation.metrics.caption_accuracy import compute_hits
from stackflower.evaluation.metrics.diversity import compute_within_group_variance
from stackflower.evaluation.metrics.frechet_distance import frechet_distance
from stackflower.evaluation.metrics.inception_score import inception_score
from stackflower.evaluation.metrics.kernel_distance import kernel_distance, squared_mmd
from stackflower.evaluation.metrics.precision_recall import precision_recall


def test_the_inception_score_of_known_distributions_is_exact() -> None:
    sure = torch.eye(10).repeat(20, 1) * 1000
    assert inception_score(sure, 1)[0] == pytest.approx(10, rel=1e-9)  # one class each, all classes: K
    assert inception_score(torch.zeros(50, 10), 5) == pytest.approx((1.0, 0.0))  # no idea: 1
    one = torch.zeros(50, 10)
    one[:, 3] = 1000
    assert inception_score(one, 1)[0] == pytest.approx(1)  # always the same: 1


def test_the_inception_score_equals_a_plain_loop() -> None:
    logits = torch.randn(103, 7).double() * 3
    parts = list(logits.tensor_split(4))
    expected = []
    for part in parts:
        p = part.softmax(1)
        marginal = p.mean(0)
        total = sum(float((row * (row / marginal).log()).sum()) for row in p)
        expected.append(math.exp(total / len(p)))
    mean = sum(expected) / 4
    deviation = math.sqrt(sum((value - mean) ** 2 for value in expected) / 4)
    assert inception_score(logits, 4) == pytest.approx((mean, deviation), rel=1e-10)


def test_the_inception_score_survives_extreme_logits() -> None:
    assert math.isfinite(inception_score(torch.tensor([[1e4, -1e4], [-1e4, 1e4]]), 1)[0])


@pytest.mark.extras
def test_scores_equal_those_of_torch_fidelity() -> None:
    fidelity = pytest.importorskip("torch_fidelity.metric_isc")
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric

    logits, one, other = torch.randn(500, 20) * 2, torch.randn(300, 16), torch.randn(280, 16) * 1.5 + 0.3
    theirs = fidelity.isc_features_to_metric(logits.double(), splits=10, shuffle=False)
    assert inception_score(logits, 10) == pytest.approx(
        (theirs["inception_score_mean"], theirs["inception_score_std"]), rel=1e-9
    )
    stats = [fid_features_to_statistics(features) for features in (one, other)]
    distance = fid_statistics_to_metric(*stats, verbose=False)["frechet_inception_distance"]
    assert frechet_distance(one, other) == pytest.approx(distance, rel=1e-6)


def test_the_frechet_distance_equals_its_closed_form() -> None:
    points = torch.tensor([[-1.0], [1.0]]).repeat(50, 1).double()
    variance = points.var(0).item()
    assert frechet_distance(points, 2 * points + 3) == pytest.approx(
        9 + (math.sqrt(4 * variance) - math.sqrt(variance)) ** 2
    )
    assert frechet_distance(points, points) == pytest.approx(0, abs=1e-9)


@pytest.mark.extras
def test_the_kernel_distance_equals_torch_fidelitys() -> None:
    fidelity = pytest.importorskip("torch_fidelity.metric_kid")
    one, other = torch.randn(300, 16), torch.randn(280, 16) * 1.5 + 0.3
    theirs = fidelity.kid_features_to_metric(one, other, kid_subsets=20, kid_subset_size=100, verbose=False)
    wanted = theirs["kernel_inception_distance_mean"], theirs["kernel_inception_distance_std"]
    assert kernel_distance(one, other, 20, 100) == pytest.approx(wanted, rel=1e-6)


def test_the_squared_discrepancy_equals_a_plain_loop() -> None:
    one, other = torch.randn(4, 3, dtype=torch.float64), torch.randn(5, 3, dtype=torch.float64)

    def kernel(x: torch.Tensor, y: torch.Tensor) -> float:
        return float((x @ y / 3 + 1) ** 3)

    def mean(values: list[float]) -> float:
        return sum(values) / len(values)

    within = [mean([kernel(x, y) for x in part for y in part if x is not y]) for part in (list(one), list(other))]
    between = mean([kernel(x, y) for x in one for y in other])
    assert float(squared_mmd(one, other)) == pytest.approx(sum(within) - 2 * between, rel=1e-9)
    with pytest.raises(ValueError, match="allowed are 2 to 4"):
        kernel_distance(one, other, subset_size=5)


@pytest.mark.extras
def test_precision_and_recall_equal_prdcs(monkeypatch: pytest.MonkeyPatch) -> None:
    prdc = pytest.importorskip("prdc")
    from stackflower.evaluation.metrics import precision_recall as module

    monkeypatch.setattr(module, "CHUNK", 37)
    real, fake = torch.randn(200, 4), torch.randn(150, 4) * 0.7 + 0.4
    theirs = prdc.compute_prdc(real.double().numpy(), fake.double().numpy(), nearest_k=5)
    assert precision_recall(real, fake) == pytest.approx(
        {name: float(value) for name, value in theirs.items()}, abs=1e-9
    )


def test_precision_is_of_generated_images_and_recall_of_real_ones() -> None:
    real = torch.randn(200, 2)
    assert precision_recall(real, real.clone()) == pytest.approx(
        {"precision": 1, "recall": 1, "density": 1, "coverage": 1}, abs=0.02
    )
    collapsed = real[:1] + 1e-3 * torch.randn(200, 2)
    found = precision_recall(real, collapsed)
    assert found["precision"] == 1 and found["recall"] < 0.02 and found["coverage"] < 0.1
    strange = torch.cat([real, 20 + torch.randn(200, 2)])
    found = precision_recall(real, strange)
    assert found["precision"] == pytest.approx(0.5, abs=0.01) and found["recall"] == found["coverage"] == 1
    repeated = real[:10].repeat(20, 1)
    found = precision_recall(real, repeated)
    assert found["precision"] == 1 and found["recall"] < 0.06 and found["coverage"] < 0.3, "copies of ten"
    with pytest.raises(ValueError, match="more than 5"):
        precision_recall(real[:5], real)


def test_the_cosine_distance_follows_the_captions() -> None:
    from types import SimpleNamespace

    from stackflower.evaluation.extractors.base import Extracted
    from stackflower.evaluation.metrics.logit_distance import LogitDistance, cosine_distance
    from stackflower.evaluation.statistics import Statistics

    one, other = torch.randn(6, 5), torch.randn(6, 5)
    expected = [1 - float(a @ b / (a.norm() * b.norm())) for a, b in zip(one, other, strict=True)]
    assert cosine_distance(one, other).tolist() == pytest.approx(expected, rel=1e-5)
    real = Statistics.of(Extracted.of(one, one))
    captions = [(7, 0), (3, 1), (7, 1), (9, 0), (2, 0), (5, 0), (1, 0)]  # image 7 twice
    rows = torch.tensor([0, 1, 0, 2, 3, 4, 5])
    fake = Statistics.of(Extracted.of(one[rows], 3 * one[rows]))
    sample = SimpleNamespace(fake=fake, real=real, pairs=captions, chosen=[7, 3, 9, 2, 5, 1])
    found = LogitDistance().compute(sample)  # type: ignore[arg-type]
    assert found["cosine_distance"] == pytest.approx(0, abs=1e-6) and found["cosine_distance_to_another"] > 0.1


def test_the_variance_within_groups_equals_a_plain_loop() -> None:
    features = torch.randn(12, 3)
    groups = torch.tensor([0, 1, 2] * 4)
    expected = sum(features[groups == g].double().var(0).sum() for g in range(3)) / 3
    assert compute_within_group_variance(features, groups) == pytest.approx(expected.item(), rel=1e-10)
    assert compute_within_group_variance(torch.ones(4, 2), torch.tensor([0, 0, 1, 1])) == 0


def test_the_share_of_hits_counts_only_what_was_asked() -> None:
    logits = torch.eye(3)
    assert compute_hits(logits, torch.tensor([0, 1, 0]), torch.tensor([True, True, True])).tolist() == [1, 1, 0]
    assert compute_hits(logits, torch.tensor([0, 1, 0]), torch.tensor([True, True, False])).tolist() == [1, 1]

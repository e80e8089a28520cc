"""The mathematics of streamed scores and their intervals, against closed forms and other libraries."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from skimage.metrics import structural_similarity
from torch import Tensor
from torch.nn import functional as F

from stackflower.errors import ConfigError
from stackflower.evaluation.classifier.augmentation import Mix
from stackflower.evaluation.classifier.heads import CaptionHead
from stackflower.evaluation.classifier.losses import compute_caption_loss
from stackflower.evaluation.classifier.measuring import compute_calibration_error
from stackflower.evaluation.extractors.base import Extracted
from stackflower.evaluation.intervals import RESAMPLES, compute_interval, compute_offsets
from stackflower.evaluation.metrics import frechet_distance as frechet
from stackflower.evaluation.metrics import inception_score, kernel_distance
from stackflower.evaluation.metrics.ms_ssim import ms_ssim
from stackflower.evaluation.metrics.precision_recall import compute_per_image
from stackflower.evaluation.metrics.r_precision import r_precision
from stackflower.evaluation.nearest import find_nearest
from stackflower.evaluation.protocol import PROTOCOLS, Protocol, find_protocol
from stackflower.evaluation.statistics import Moments, Statistics
from stackflower.utils.distributed import share


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def outputs(count: int) -> Extracted:
    features = torch.randn(count, 6) * torch.arange(1, 7) + 3
    return Extracted.of(features, 3 * torch.randn(count, 4))


@pytest.mark.parametrize("sizes", [(50,), (1,) * 50, (7, 43), (20, 1, 29)])
@pytest.mark.parametrize("processes", [1, 3])
def test_streamed_scores_do_not_depend_on_batches_and_processes(sizes: tuple[int, ...], processes: int) -> None:
    found = outputs(50)
    whole = Statistics.of(found, 3)
    workers = []
    for index in range(processes):
        mine = share(50, (index, processes))
        worker, first = Statistics(50, 3, 20), mine.start
        for part in found.rows(slice(mine.start, mine.stop)).features.split(sizes[0]):
            worker.add(found.rows(slice(first, first + len(part))), torch.arange(first, first + len(part)))
            first += len(part)
        workers.append(worker)
    workers[0].merge(workers[1:])
    streamed = workers[0]
    assert streamed.count == 50 and len(streamed.rows.features) == 20, "the first images only"
    assert torch.equal(streamed.rows.features, found.features[:20])
    assert torch.allclose(streamed.moments.mean, found.features.double().mean(0), rtol=1e-12)
    assert torch.allclose(streamed.moments.covariance, torch.cov(found.features.double().T), rtol=1e-10)
    assert inception_score.summarise_splits(streamed) == pytest.approx(
        inception_score.summarise_splits(whole), rel=1e-12
    )
    other = Moments.of(torch.randn(80, 6))
    distances = [frechet.compute_moment_distance(one.moments, other).value for one in (streamed, whole)]
    assert distances[0] == pytest.approx(distances[1], rel=1e-9)


def test_statistics_are_the_same_from_a_file() -> None:
    found = outputs(30)._replace(heads={"colour": torch.randn(30, 2)}, vectors=torch.randn(30, 5))
    whole = Statistics.of(found, 4, 12)
    again = Statistics.from_tensors(whole.to_tensors())
    assert (again.count, again.splits, again.total) == (30, 4, 30)
    assert inception_score.summarise_splits(again) == inception_score.summarise_splits(whole)
    for name, values in again.to_tensors().items():
        assert torch.equal(values, whole.to_tensors()[name]), name
    assert again.rows.heads["colour"].shape == (12, 2) and again.rows.vectors.shape == (12, 5)


@pytest.mark.parametrize(("count", "splits"), [(10, 3), (11, 4), (7, 7), (20, 1)])
def test_splits_are_those_of_tensor_split(count: int, splits: int) -> None:
    logits = torch.randn(count, 5, dtype=torch.float64)
    expected = [float(torch.exp(kl(part).mean())) for part in logits.log_softmax(1).tensor_split(splits)]
    mean, deviation = inception_score.inception_score(logits, splits)
    assert mean == pytest.approx(np.mean(expected), rel=1e-12)
    assert deviation == pytest.approx(np.std(expected), rel=1e-9, abs=1e-12)


def kl(log: Tensor) -> Tensor:
    return (log.exp() * (log - log.exp().mean(0).log())).sum(1)


def test_the_inception_score_of_a_constant_is_1_and_of_balanced_certain_classes_their_number() -> None:
    assert inception_score.inception_score(torch.ones(20, 7), 2)[0] == pytest.approx(1, abs=1e-12)
    certain = 1000 * torch.eye(7).repeat(4, 1)
    assert inception_score.inception_score(certain, 4) == pytest.approx((7, 0), abs=1e-9)


def test_the_frechet_distance_of_gaussians_is_the_closed_form() -> None:
    """Of commuting covariances, |μ₁−μ₂|² + Σ (σ₁ − σ₂)²; of a set and itself, 0."""
    one, other = (
        Moments(5, torch.tensor([1.0, 2.0]).double(), 4 * torch.diag(torch.tensor([4.0, 9.0]).double())),
        Moments(9, torch.tensor([0.0, 4.0]).double(), 8 * torch.diag(torch.tensor([1.0, 25.0]).double())),
    )
    assert frechet.compute_moment_distance(one, other).value == pytest.approx(1 + 4 + 1 + 4, rel=1e-12)
    assert frechet.compute_moment_distance(one, one).value == pytest.approx(0, abs=1e-12)


def test_the_influence_on_the_frechet_distance_is_its_derivative() -> None:
    """Moving a little of the first distribution's mass to a point changes the distance by the point's influence."""
    first, second = torch.randn(300, 4).double() @ torch.randn(4, 4).double(), 2 * torch.randn(200, 4).double() + 1
    found = frechet.compute_moment_distance(Moments.of(first), Moments.of(second))
    influence = found.compute_influence(first)
    assert float(influence.mean()) == pytest.approx(0, abs=1e-1 * float(influence.std()))
    mean, covariance, step = first.mean(0), torch.cov(first.T), 1e-5
    for point in first[:5]:
        away = point - mean
        mixed = (1 - step) * covariance + step * (1 - step) * torch.outer(away, away)
        moved = Moments(300, mean + step * away, 299 * mixed)
        slope = (frechet.compute_moment_distance(moved, Moments.of(second)).value - found.value) / step
        assert slope == pytest.approx(float(found.compute_influence(point[None])), rel=1e-2, abs=1e-2)


def test_the_influence_on_the_other_scores_is_their_jackknife() -> None:
    one, other = torch.randn(60, 5), torch.randn(40, 5) + 0.3
    without = [
        float(kernel_distance.squared_mmd(torch.cat([one[:n], one[n + 1 :]]).double(), other.double()))
        for n in range(60)
    ]
    jackknife = 59 * (np.mean(without) - np.array(without))
    found = kernel_distance.compute_influence(one, other).numpy()
    assert np.corrcoef(found, jackknife)[0, 1] > 0.999
    assert np.std(found) == pytest.approx(np.std(jackknife), rel=0.05)

    logits = 2 * torch.randn(60, 5)
    whole = math.log(inception_score.inception_score(logits, 1)[0])
    without = [
        math.log(inception_score.inception_score(torch.cat([logits[:n], logits[n + 1 :]]), 1)[0]) for n in range(60)
    ]
    jackknife = 59 * (whole - np.array(without))
    found = inception_score.compute_influence(logits, logits.double().softmax(1).mean(0)).numpy()
    assert np.corrcoef(found, jackknife)[0, 1] > 0.999


def test_intervals_hold_the_mean_as_often_as_they_say() -> None:
    """95 of 100 samples' intervals, give or take; and theirs of few values shrink to those of many."""
    held = 0
    for _ in range(200):
        low, high = compute_interval(torch.randn(60).exp())
        held += low <= math.exp(0.5) <= high
    assert 0.86 < held / 200 < 0.98
    low, high = compute_offsets(torch.randn(400), 400)
    assert high - low == pytest.approx(2 * 1.96 / 20, rel=0.15)
    assert compute_offsets(torch.randn(400), 1600)[1] == pytest.approx(high / 2, rel=0.3)
    assert all(math.isnan(value) for value in compute_offsets(torch.ones(1), 1))
    assert compute_offsets(torch.full((9,), 3.0), 9) == (0, 0) and RESAMPLES >= 1000


def test_precision_and_coverage_are_known_of_each_image() -> None:
    real = torch.randn(100, 3)
    found = compute_per_image(real, torch.cat([real[:50], 50 + torch.randn(50, 3)]))
    assert found["precision"][:50].all() and not found["precision"][50:].any()
    assert found["coverage"][:50].all() and len(found["coverage"]) == len(found["recall"]) == 100


@pytest.mark.parametrize("size", [16, 21])
def test_structural_similarity_of_one_scale_is_scikit_images(size: int) -> None:
    """At under 22 px there is one scale."""
    one = torch.randint(0, 256, (2, 3, size, size), dtype=torch.uint8)
    other = (one.float() * 0.7 + 30 + 20 * torch.randn(one.shape)).clamp(0, 255).round().to(torch.uint8)
    expected = [
        structural_similarity(
            a.numpy(),
            b.numpy(),
            channel_axis=0,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
            data_range=255,
        )
        for a, b in zip(one, other, strict=True)
    ]
    assert ms_ssim(one, other).tolist() == pytest.approx(expected, rel=1e-6)


def test_multi_scale_structural_similarity_is_symmetric_and_falls_with_noise() -> None:
    one = torch.rand(2, 3, 192, 192) * 255
    assert ms_ssim(one, one).tolist() == pytest.approx([1, 1], abs=1e-9)
    near, far = ms_ssim(one, one + 5 * torch.randn(one.shape)), ms_ssim(one, torch.rand(2, 3, 192, 192) * 255)
    assert (near > 0.9).all() and (far < 0.5).all()
    assert torch.allclose(ms_ssim(one, near_copy := one.flip(0)), ms_ssim(near_copy, one), rtol=1e-9), "symmetric"
    with pytest.raises(ValueError, match="needs at least 11 px"):
        ms_ssim(one[..., :10, :10], one[..., :10, :10])


def test_r_precision_finds_the_own_caption_among_others() -> None:
    vectors = F.normalize(torch.randn(400, 16), dim=1)
    captions = [f"caption {number}" for number in range(400)]
    assert r_precision(vectors, vectors, captions).mean() == 1
    chance = r_precision(vectors, F.normalize(torch.randn(400, 16), dim=1), captions).mean()
    assert chance == pytest.approx(0.01, abs=0.02)
    shuffled = r_precision(vectors, vectors.roll(1, 0), captions).mean()
    assert shuffled < 0.05, "another image's caption"


def test_r_precision_is_the_expectation_of_draws() -> None:
    images, texts = F.normalize(torch.randn(150, 8), dim=1), F.normalize(torch.randn(150, 8), dim=1)
    texts = F.normalize(texts + 1.5 * images, dim=1)
    similar, hits = images @ texts.T, torch.zeros(150)
    for _ in range(400):
        for row in range(150):
            others = torch.randperm(149)[:99]
            hits[row] += similar[row, row] > similar[row, others + (others >= row)].max()
    found = r_precision(images, texts, [str(number) for number in range(150)])
    assert 0.2 < found.mean() < 0.9 and (found - hits / 400).abs().max() < 0.12
    assert float(found.mean()) == pytest.approx(float(hits.mean()) / 400, abs=0.01)


def test_equal_captions_are_not_others_of_one_another() -> None:
    """Two images with one caption each find it, though it is the other's too."""
    vectors = F.normalize(torch.randn(200, 16), dim=1).repeat_interleave(2, 0)
    captions = [str(number // 2) for number in range(400)]
    assert r_precision(vectors, vectors, captions).mean() == 1


def test_a_caption_that_comes_often_counts_once() -> None:
    """Repeating every row changes nothing: others are drawn among different captions."""
    vectors, texts = F.normalize(torch.randn(150, 8), dim=1), F.normalize(torch.randn(150, 8), dim=1)
    captions = [str(number) for number in range(150)]
    once = r_precision(vectors, texts + vectors, captions).mean()
    often = r_precision(vectors.repeat(20, 1), (texts + vectors).repeat(20, 1), captions * 20).mean()
    assert 0.2 < once < 0.9 and often == pytest.approx(float(once), rel=1e-9)


def test_a_mixed_images_own_captions_are_never_masked() -> None:
    """Both captions of two mixed images of one class are targets; other captions of the class are not wrong answers."""
    head = CaptionHead(4, 4)
    vectors = torch.eye(4)
    head.project_captions = lambda embeddings: vectors  # type: ignore[method-assign]
    label, other = torch.tensor([0, 0, 0, 1]), torch.tensor([1, 0, 2, 3])
    images = F.normalize(0.5 * vectors + 0.5 * vectors[other], dim=1).requires_grad_()
    loss = compute_caption_loss(head, images, torch.zeros(4, 4), label, Mix(0.5, other))
    assert loss.item() < 5, "no target is masked"
    loss.backward()
    assert images.grad is not None
    assert (images.grad.diagonal() <= 0).all() and images.grad[0, 1] <= 0, "towards both captions"
    assert images.grad[0, 2] == 0 and images.grad[0, 3] > 0


def test_the_calibration_error_equals_its_definition() -> None:
    """All at a confidence of 0.8, of which 6 of 10 are right: 0.2."""
    logits = torch.tensor([[math.log(0.8), math.log(0.2)]]).repeat(10, 1)
    target = torch.tensor([0] * 6 + [1] * 4)
    assert compute_calibration_error(logits, target) == pytest.approx(0.2, abs=1e-6)
    assert compute_calibration_error(1000 * torch.eye(3), torch.arange(3)) == pytest.approx(0, abs=1e-6)


def test_copies_are_found_where_training_images_come_twice() -> None:
    training = F.normalize(torch.randn(400, 32), dim=1)
    training = torch.cat([training, training[:40]])  # a tenth of them
    found = find_nearest(training[:100].clone(), training[None])
    assert found.limit > 0.3 and found.copies.all()


def test_copies_of_training_images_are_found() -> None:
    training, fresh = torch.randn(300, 8), torch.randn(100, 8)
    assert find_nearest(training[:100] + 1e-4, training[None]).copies.all()
    assert find_nearest(fresh, training[None]).copies.double().mean() < 0.1


def test_named_protocols_fix_their_settings() -> None:
    assert find_protocol("default", {}) == Protocol()
    birds = find_protocol("stackgan-birds", {"seed": 3})
    assert (birds.splits, birds.per_caption, birds.unseen_classes, birds.seed) == (10, 10, (150, 50), 3)
    assert find_protocol("stackgan-flowers", {"splits": 10}).name == "stackgan-flowers"
    with pytest.raises(ConfigError, match=r"`per_caption`: the protocol stackgan-birds fixes `per_caption=10`"):
        find_protocol("stackgan-birds", {"per_caption": 1})
    with pytest.raises(ConfigError, match="Did you mean 'stackgan-birds'"):
        find_protocol("stackgan-bird", {})
    for name in PROTOCOLS:
        assert find_protocol(name, {}).describe()["protocol"] == name

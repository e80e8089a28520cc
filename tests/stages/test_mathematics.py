"""Formulas against closed forms in float64, plain loops, and other libraries."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from stackflower.config.schema import Optimizer
from stackflower.evaluation.metrics.caption_accuracy import hits
from stackflower.evaluation.metrics.diversity import within_group_variance
from stackflower.evaluation.metrics.frechet_distance import frechet_distance
from stackflower.evaluation.metrics.inception_score import inception_score
from stackflower.evaluation.metrics.kernel_distance import kernel_distance, squared_mmd
from stackflower.evaluation.metrics.precision_recall import precision_recall
from stackflower.objectives.base import Pairs
from stackflower.objectives.bce import BinaryCrossEntropy
from stackflower.objectives.contrast import compute_contrastive_loss
from stackflower.objectives.hinge import Hinge
from stackflower.objectives.least_squares import LeastSquares
from stackflower.objectives.relativistic import Relativistic
from stackflower.objectives.wasserstein import Wasserstein
from stackflower.penalties.base import PenaltyInputs, sum_scores
from stackflower.penalties.feature_matching import FeatureMatching
from stackflower.penalties.gradient import GradientPenalty
from stackflower.penalties.matching_aware import MatchingAwareGradient
from stackflower.penalties.mode_seeking import ModeSeeking
from stackflower.penalties.zero_centred import R1, R2
from stackflower.stages.base import OtherTexts, Text, Verdict
from stackflower.stages.conditioning import ConditioningAugmentation, compute_kl_to_standard_normal
from stackflower.stages.contrast import compute_similarities
from stackflower.stages.generators.fastgan import Excitation
from stackflower.stages.generators.stage2 import StageTwoGenerator
from stackflower.stages.generators.tree import compute_colour_consistency
from stackflower.stages.layers import REFERENCE_BATCH_SIZE, MinibatchDeviation, UpsampleConv, VirtualBatchNorm2d
from stackflower.stages.r3gan_blocks import Resampling, ResidualBlock
from stackflower.text.encoders.rnn import BidirectionalGRU
from stackflower.text.ranking import cosine_ranking_loss, joint_embedding_loss
from stackflower.training.batches.negatives import NegativeSampler
from stackflower.training.ema import EMA
from stackflower.training.schedules import learning_rate
from stackflower.utils.rng import create_rng


def test_kl_term_equals_torch_distributions_in_float64() -> None:
    mean, log_variance = torch.randn(5, 7), torch.randn(5, 7)
    normal = torch.distributions.Normal(mean.double(), (0.5 * log_variance.double()).exp())
    expected = torch.distributions.kl_divergence(normal, torch.distributions.Normal(0.0, 1.0)).mean()
    assert compute_kl_to_standard_normal(mean, log_variance).item() == pytest.approx(expected.item(), rel=1e-6)
    assert compute_kl_to_standard_normal(torch.zeros(2, 3), torch.zeros(2, 3)).item() == 0


def test_kl_gradient_is_that_of_the_closed_form() -> None:
    mean, log_variance = torch.randn(4, 3, requires_grad=True), torch.randn(4, 3, requires_grad=True)
    compute_kl_to_standard_normal(mean, log_variance).backward()
    assert torch.allclose(mean.grad, mean.detach() / 12)
    assert torch.allclose(log_variance.grad, (log_variance.detach().exp() - 1) / 24)


def test_augmentation_samples_with_the_stated_mean_and_deviation() -> None:
    torch.manual_seed(0)
    part = ConditioningAugmentation(text_dim=4, dim=3)
    embedding, noise = torch.randn(1, 4), torch.randn(50_000, 3)
    found = part(embedding.expand(50_000, 4), noise)
    hidden = F.leaky_relu(part.dense(embedding), 0.2)
    assert torch.allclose(found.sample.mean(0), hidden[0, :3], atol=0.03)
    assert torch.allclose(found.sample.var(0), hidden[0, 3:].exp(), rtol=0.03)


def critic(match: dict[str, float]):
    """A critic whose verdict is a constant for each kind of pair, told apart by the text's first number."""

    def judge(images: torch.Tensor, texts: list[Text]) -> list[Verdict]:
        kind = "fake" if images[0, 0, 0, 0] < 0 else "real"
        return [Verdict(torch.full((2,), match["negative" if text.embedding[0, 0] < 0 else kind])) for text in texts]

    return judge


REAL, FAKE = torch.ones(2, 3, 4, 4), -torch.ones(2, 3, 4, 4)
RIGHT, WRONG = Text(torch.ones(2, 1), torch.ones(2, 1)), Text(-torch.ones(2, 1), torch.ones(2, 1))


def softplus(x: float) -> float:
    return math.log1p(math.exp(x))


def test_bce_is_gan_cls_with_soft_labels() -> None:
    scores = {"real": 1.3, "negative": -0.4, "fake": 0.7}
    pairs = Pairs(REAL, FAKE, RIGHT, WRONG, RIGHT)
    terms = BinaryCrossEntropy().discriminator_terms(critic(scores), pairs)
    assert terms["real"].item() == pytest.approx(softplus(-1.3), rel=1e-6)
    assert terms["negative"].item() == pytest.approx(softplus(-0.4) / 2, rel=1e-6)
    assert terms["fake"].item() == pytest.approx(softplus(0.7) / 2, rel=1e-6)
    soft = BinaryCrossEntropy(real_label=0.9, fake_label=0.1).discriminator_terms(critic(scores), pairs)
    assert soft["real"].item() == pytest.approx(0.9 * softplus(-1.3) + 0.1 * softplus(1.3), rel=1e-6)
    assert soft["fake"].item() == pytest.approx((0.1 * softplus(-0.7) + 0.9 * softplus(0.7)) / 2, rel=1e-6)
    fooled = BinaryCrossEntropy().generator_terms(critic(scores), Pairs(REAL, FAKE, RIGHT, None, RIGHT))["adversarial"]
    assert fooled.item() == pytest.approx(softplus(-0.7), rel=1e-6)


def test_hinge() -> None:
    scores = {"real": 0.3, "negative": -0.4, "fake": -1.7}
    terms = Hinge().discriminator_terms(critic(scores), Pairs(REAL, FAKE, RIGHT, WRONG, RIGHT))
    assert [terms[name].item() for name in ("real", "negative", "fake")] == pytest.approx([0.7, 0.3, 0.0])
    assert Hinge().generator_terms(critic(scores), Pairs(REAL, FAKE, RIGHT, None, RIGHT))[
        "adversarial"
    ].item() == pytest.approx(1.7)


def test_least_squares() -> None:
    scores = {"real": 0.3, "negative": -0.4, "fake": 1.7}
    goal = LeastSquares(real_label=0.9, fake_label=0.1)
    terms = goal.discriminator_terms(critic(scores), Pairs(REAL, FAKE, RIGHT, WRONG, RIGHT))
    assert [terms[name].item() for name in ("real", "negative", "fake")] == pytest.approx(
        [0.5 * 0.6**2, 0.25 * 0.5**2, 0.25 * 1.6**2]
    )
    assert goal.generator_terms(critic(scores), Pairs(REAL, FAKE, RIGHT, None, RIGHT))[
        "adversarial"
    ].item() == pytest.approx(0.5 * 0.8**2)


def test_wasserstein_is_the_difference_of_means() -> None:
    scores = {"real": 0.3, "negative": -0.4, "fake": 1.7}
    terms = Wasserstein().discriminator_terms(critic(scores), Pairs(REAL, FAKE, RIGHT, None, RIGHT))
    assert sum(terms.values()).item() == pytest.approx(1.7 - 0.3)
    assert not Wasserstein().mismatched and Wasserstein(mismatched=True).mismatched
    terms = Wasserstein(mismatched=True).discriminator_terms(critic(scores), Pairs(REAL, FAKE, RIGHT, WRONG, RIGHT))
    assert sum(terms.values()).item() == pytest.approx(0.5 * (1.7 - 0.4) - 0.3)
    assert Wasserstein().generator_terms(critic(scores), Pairs(REAL, FAKE, RIGHT, None, RIGHT))[
        "adversarial"
    ].item() == pytest.approx(-1.7)


def test_the_relativistic_loss_pairs_scores() -> None:
    scores = {"real": 1.3, "negative": -0.4, "fake": 0.7}
    pairs = Pairs(REAL, FAKE, RIGHT, WRONG, RIGHT)
    terms = Relativistic().discriminator_terms(critic(scores), pairs)
    assert terms["pairing"].item() == pytest.approx(softplus(0.7 - 1.3) / 2, rel=1e-6)
    assert terms["negative"].item() == pytest.approx(softplus(-0.4 - 1.3) / 2, rel=1e-6)
    alone = Relativistic(mismatched=False).discriminator_terms(critic(scores), pairs._replace(negative_text=None))
    assert {name: term.item() for name, term in alone.items()} == {"pairing": pytest.approx(softplus(-0.6), rel=1e-6)}
    terms = Relativistic().generator_terms(critic(scores), pairs._replace(negative_text=None))
    assert terms["adversarial"].item() == pytest.approx(softplus(1.3 - 0.7), rel=1e-6)


def test_with_several_latents_a_generated_image_is_paired_with_the_real_one_of_its_text() -> None:
    real, fake = torch.tensor([1.0, 2, 3, 4]), torch.tensor([0.1, 0.2, 0.3, 0.4])
    text = Text(torch.zeros(4, 1), torch.zeros(4, 1))
    images = torch.arange(2).repeat_interleave(4).reshape(2, 4, 1, 1, 1).float()
    pairs = Pairs(images[0], images[1], text, None, text, latents=2)
    found = Relativistic(mismatched=False).discriminator_terms(
        lambda given, texts: [Verdict(fake if given is pairs.fake else real)], pairs
    )
    expected = [softplus(f - r) for f, r in zip(fake.tolist(), (1, 1, 3, 3), strict=True)]
    assert found["pairing"].item() == pytest.approx(sum(expected) / 4, rel=1e-6)


def test_heads_count_alike_however_many_patches_they_have() -> None:
    one, many = torch.tensor([[0.5], [-2.0]]), torch.tensor([[0.1, 0.2, 3.0], [0.4, -0.5, -0.6]])
    verdict = Verdict((one, many))
    assert torch.allclose(verdict.score, torch.stack([one[:, 0], many.mean(1)]).mean(0))
    pairs = Pairs(REAL, FAKE, RIGHT, None, RIGHT)
    terms = Hinge().discriminator_terms(lambda images, texts: [verdict], pairs)
    expected = (F.relu(1 - one).mean() + F.relu(1 - many).mean()) / 2
    assert terms["real"].item() == pytest.approx(expected.item(), rel=1e-6)
    gradient = torch.autograd.functional.jacobian(lambda a, b: sum_scores(Verdict((a, b))), (one, many))
    assert torch.allclose(gradient[0], torch.full_like(one, 0.5)) and torch.allclose(
        gradient[1], torch.full_like(many, 1 / 6)
    )


def penalised(judge: Any, real: torch.Tensor, fake: torch.Tensor, **given: Any) -> PenaltyInputs:
    """The inputs of a penalty; images are their own maps."""
    usual = {"text": RIGHT, "fake_text": RIGHT, "noise": torch.zeros(2, 1), "maps": lambda images: (images,)}
    return PenaltyInputs(judge, real, fake, **(usual | given))


def test_gradient_penalty_against_the_closed_form() -> None:
    """For D(x) = w Σx² the slope at x̂ is 2wx̂; with real = drawn, x̂ is that image wherever it lies on the line."""
    w, images = torch.tensor(0.7, requires_grad=True), torch.randn(2, 3, 4, 4)

    def judge(x: torch.Tensor, texts: list[Text]) -> list[Verdict]:
        return [Verdict(w * x.square().sum((1, 2, 3)))]

    value = GradientPenalty()(penalised(judge, images, images.clone()))
    value.backward()
    length = images.double().flatten(1).norm(dim=1)
    assert value.item() == pytest.approx(((1.4 * length - 1) ** 2).mean().item(), rel=1e-5)
    assert w.grad.item() == pytest.approx((2 * (1.4 * length - 1) * 2 * length).mean().item(), rel=1e-5)
    seen = []

    def note(x: torch.Tensor, texts: list[Text]) -> list[Verdict]:
        seen.append(x.detach()[:, 0, 0, 0])
        return [Verdict(w * x.sum((1, 2, 3)))]

    GradientPenalty()(penalised(note, REAL, FAKE))
    assert (seen[0].abs() < 1).all() and seen[0][0] != seen[0][1], (
        "between real (1) and drawn (-1), each at its own place"
    )


def test_matching_aware_penalty_and_its_gradient_against_the_closed_form() -> None:
    """For D(x, e) = w Σx² + v Σe the slopes are 2wx and v: the penalty is (2w‖x‖ + v√T)^p."""
    w, v = torch.tensor(0.7, requires_grad=True), torch.tensor(0.4, requires_grad=True)
    images, words = torch.randn(2, 3, 4, 4) / 4, Text(torch.randn(2, 5), torch.randn(2, 3))

    def judge(x: torch.Tensor, texts: list[Text]) -> list[Verdict]:
        return [Verdict(w * x.square().sum((1, 2, 3)) + v * texts[0].embedding.sum(1))]

    value = MatchingAwareGradient(power=3)(penalised(judge, images, FAKE, text=words))
    value.backward()
    length = images.double().flatten(1).norm(dim=1)
    inner = 2 * 0.7 * length + 0.4 * 5**0.5
    assert value.item() == pytest.approx((inner**3).mean().item(), rel=1e-5)
    assert w.grad.item() == pytest.approx((3 * inner**2 * 2 * length).mean().item(), rel=1e-5)
    assert v.grad.item() == pytest.approx((3 * inner**2 * 5**0.5).mean().item(), rel=1e-5)


def test_without_mismatched_pairs_fake_counts_whole() -> None:
    terms = Hinge().discriminator_terms(critic({"real": 0.0, "fake": 0.0}), Pairs(REAL, FAKE, RIGHT, None, RIGHT))
    assert {name: value.item() for name, value in terms.items()} == {"real": 1.0, "fake": 1.0}


OWN = torch.arange(4)


def test_contrast_is_the_cross_entropy_over_texts_of_other_classes() -> None:
    alike, label = torch.randn(4, 4, dtype=torch.float64), torch.tensor([7, 3, 7, 5])
    expected = 0.0
    for image in range(4):
        wrong = [text for text in range(4) if label[text] != label[image]]
        total = sum(math.exp(alike[image, text]) for text in (image, *wrong))
        expected += (math.log(total) - alike[image, image].item()) / 4
    assert compute_contrastive_loss(alike, OWN, label).item() == pytest.approx(expected, rel=1e-12)
    plain = sum(alike[i].exp().sum().log().item() - alike[i, i].item() for i in range(4)) / 4
    assert compute_contrastive_loss(alike, OWN).item() == pytest.approx(plain, rel=1e-12)
    assert compute_contrastive_loss(alike, OWN, torch.zeros(4)).item() == 0, "one class: nothing to tell apart"
    wrong = torch.randn(4, dtype=torch.float64)
    more = sum((alike[i].exp().sum() + wrong[i].exp()).log().item() - alike[i, i].item() for i in range(4)) / 4
    assert compute_contrastive_loss(alike, OWN, None, wrong).item() == pytest.approx(more, rel=1e-12)


def test_objectives_weigh_the_contrast_where_the_discriminator_gives_one() -> None:
    alike = {1.0: torch.randn(2, 2), -1.0: torch.randn(2, 2)}  # by the text's first number: right and wrong

    def judge(images: torch.Tensor, texts: list[Text]) -> list[Verdict]:
        return [Verdict(torch.zeros(2), similarity=alike[text.embedding[0, 0].item()]) for text in texts]

    goal = Hinge(contrast=0.5, generator_contrast=0.25)
    found = goal.discriminator_terms(judge, Pairs(REAL, FAKE, RIGHT, WRONG, RIGHT))["contrast"].item()
    assert found == pytest.approx(
        0.5 * compute_contrastive_loss(alike[1.0], OWN[:2], None, alike[-1.0].diagonal()).item()
    )
    found = goal.generator_terms(judge, Pairs(REAL, FAKE, RIGHT, None, RIGHT))["contrast"].item()
    assert found == pytest.approx(0.25 * compute_contrastive_loss(alike[1.0], OWN[:2]).item())


def test_the_contrast_compares_with_other_captions_but_not_those_of_the_images_class() -> None:
    others = OtherTexts(torch.randn(3, 2), torch.tensor([0, 1, 7]))
    words = Text(torch.randn(2, 2), torch.randn(2, 2), torch.tensor([0, 1]), others)
    keys, columns = F.normalize(torch.randn(2, 2), dim=1), torch.cat([words.embedding, others.embedding])
    alike = compute_similarities(keys, torch.nn.Identity(), words)
    assert torch.allclose(alike, keys @ F.normalize(columns, dim=1).T / 0.1, atol=1e-5)
    found = Hinge.compute_contrast_term(1.0, Verdict(torch.zeros(2), similarity=alike), words)["contrast"].item()
    kept = [
        [0, 1, 3, 4],
        [0, 1, 2, 4],
    ]  # of the columns: the batch's two captions, then the others but one of its class
    expected = sum(torch.logsumexp(alike[i, kept[i]], 0) - alike[i, i] for i in range(2)) / 2
    assert found == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize("penalty", [R1, R2])
def test_zero_centred_penalties_and_their_gradient_against_the_closed_form(penalty: type[R1] | type[R2]) -> None:
    """For D(x) = wᵀx² the slope is 2wx, so ½‖∇D‖² = 2 Σ (w x)² and its derivative by w is 4 w x²; R1 at real, R2 at drawn."""
    weight = torch.randn(3, 4, 4, requires_grad=True)
    images = torch.randn(2, 3, 4, 4)

    other = torch.randn_like(images)
    drawn = Text(torch.randn(2, 3), torch.randn(2, 3))

    def judge(x: torch.Tensor, texts: list[Text]) -> list[Verdict]:
        assert texts[0] is (RIGHT if penalty is R1 else drawn)
        return [Verdict((weight * x.square()).sum((1, 2, 3)))]

    real, fake = (images, other) if penalty is R1 else (other, images)
    value = penalty(weight=1.0)(penalised(judge, real, fake, fake_text=drawn))
    w, x = weight.detach().double(), images.double()
    assert value.item() == pytest.approx((2 * (w * x).square().sum((1, 2, 3))).mean().item(), rel=1e-5)
    value.backward()
    assert torch.allclose(weight.grad.double(), (4 * w * x.square()).mean(0), rtol=1e-4)


def test_mode_seeking_compares_neighbours() -> None:
    fake = torch.zeros(4, 3, 2, 2)
    fake[1], fake[3] = 0.5, 0.25
    noise = torch.zeros(4, 5)
    noise[1], noise[3] = 1.0, 2.0
    value = ModeSeeking()(penalised(critic({}), fake, fake, noise=noise)).item()
    assert value == pytest.approx((1 / 0.5 + 2 / 0.25) / 2, rel=1e-4)


def test_feature_matching_against_numpy() -> None:
    real, fake = torch.randn(6, 3, 4, 4), 0.5 + 2 * torch.randn(6, 3, 4, 4).requires_grad_()
    value = FeatureMatching()(penalised(critic({}), real, fake))
    described = []
    for images in (real, fake.detach()):
        x = images.double().numpy()
        described.append(np.concatenate([x.mean((2, 3)), np.sqrt(x.var((2, 3)) + 1e-4)], 1))
    mean, deviation = described[0].mean(0), described[0].std(0, ddof=1)
    z = (described[1] - mean) / deviation
    expected = np.mean(z.mean(0) ** 2) + np.mean((np.sqrt(z.var(0, ddof=1) + 1e-4) - 1) ** 2)
    assert value.item() == pytest.approx(expected, rel=1e-4)
    assert FeatureMatching()(penalised(critic({}), real, real.flip(0))).item() < 1e-4
    (gradient,) = torch.autograd.grad(value, fake)
    assert (gradient * (fake - real.mean()).sign()).sum() > 0, "brighter and wider than real: drawn back"


@pytest.mark.parametrize("size", [4, 8, 16])
def test_upsampling_convolution_is_enlargement_then_convolution(size: int) -> None:
    layer = UpsampleConv(5, 6).double()
    x = torch.randn(2, 5, size, size, dtype=torch.float64, requires_grad=True)
    plain = F.conv2d(F.interpolate(x, scale_factor=2, mode="nearest"), layer.weight, padding=1)
    fast = layer(x)
    assert torch.allclose(plain, fast, atol=1e-12)
    seed = torch.randn_like(plain)
    for one, other in zip(
        *(torch.autograd.grad((y * seed).sum(), (x, layer.weight)) for y in (plain, fast)), strict=True
    ):
        assert torch.allclose(one, other, atol=1e-12)


def test_minibatch_deviation_is_the_mean_deviation_within_groups() -> None:
    x = torch.randn(6, 2, 3, 3)
    out = MinibatchDeviation(group=3)(x)
    for member in range(6):
        group = x[member % 2 :: 2]
        assert out[member, 2].unique().item() == pytest.approx(
            group.var(0, unbiased=False).sqrt().mean().item(), rel=1e-4
        )
    assert torch.equal(out[:, :2], x)


def test_ema_halves_in_its_half_life() -> None:
    module = torch.nn.Linear(1, 1, bias=False)
    average = EMA(module, half_life=640)
    start = average.module.weight.item()
    torch.nn.init.constant_(module.weight, 5.0)
    for step in range(10):
        average.update(module, 1_000_000 + 64 * step, 64)
    assert average.module.weight.item() == pytest.approx(5 + (start - 5) / 2, rel=1e-5)


def test_learning_rate_halves_by_epochs_and_falls_at_the_end() -> None:
    halving = Optimizer(lr=1.0, halve_every=50)
    assert [learning_rate(halving, images, images / 10**9, 100) for images in (0, 4999, 5000, 10_000)] == [
        1,
        1,
        0.5,
        0.25,
    ]
    falling = Optimizer(lr=1.0, decay_from=0.5)
    assert [learning_rate(falling, images, images / 100, 10) for images in (0, 50, 75, 100)] == [1, 1, 0.5, 0]


# ---- mismatched captions


@pytest.mark.parametrize("labels", [[0, 0, 1, 1, 1, 2], [5, 9, 5, 9, 5, 5], None])
def test_wrong_pairs_never_share_a_class_and_are_uniform(labels: list[int] | None) -> None:
    count = 6
    draw = NegativeSampler(None if labels is None else torch.tensor(labels), count)
    index = torch.arange(count).repeat(20_000)
    other = draw(index, create_rng(0, 1))
    classes = torch.arange(count) if labels is None else torch.tensor(labels)
    assert (classes[index] != classes[other]).all()
    for picture in range(count):
        allowed = (classes != classes[picture]).nonzero().flatten()
        found = torch.bincount(other[index == picture], minlength=count)[allowed] / 20_000
        assert torch.allclose(found, torch.full_like(found, 1 / len(allowed)), atol=0.02)


def test_wrong_pairs_are_seeded() -> None:
    draw = NegativeSampler(torch.tensor([0, 1, 2, 3]), 4)
    index = torch.arange(4).repeat(10)
    assert torch.equal(draw(index, create_rng(3)), draw(index, create_rng(3)))
    assert not torch.equal(draw(index, create_rng(3)), draw(index, create_rng(4)))


def test_with_one_class_the_wrong_caption_is_another_pictures() -> None:
    draw = NegativeSampler(torch.zeros(5, dtype=torch.int64), 5)
    index = torch.arange(5).repeat(100)
    assert (draw(index, create_rng(0)) != index).all()


# ---- scores


def test_inception_score_of_known_distributions() -> None:
    sure = torch.eye(10).repeat(20, 1) * 1000
    assert inception_score(sure, 1)[0] == pytest.approx(10, rel=1e-9)  # one class each, all classes: K
    assert inception_score(torch.zeros(50, 10), 5) == pytest.approx((1.0, 0.0))  # no idea: 1
    one = torch.zeros(50, 10)
    one[:, 3] = 1000
    assert inception_score(one, 1)[0] == pytest.approx(1)  # always the same: 1


def test_inception_score_by_a_plain_loop() -> None:
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


def test_inception_score_survives_extreme_logits() -> None:
    assert math.isfinite(inception_score(torch.tensor([[1e4, -1e4], [-1e4, 1e4]]), 1)[0])


@pytest.mark.extras
def test_scores_equal_torch_fidelity() -> None:
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


def test_frechet_distance_closed_form() -> None:
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


def test_the_squared_discrepancy_by_a_plain_loop() -> None:
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


def test_which_side_precision_and_recall_are_of() -> None:
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


def test_variance_within_groups() -> None:
    features = torch.randn(12, 3)
    groups = torch.tensor([0, 1, 2] * 4)
    expected = sum(features[groups == g].double().var(0).sum() for g in range(3)) / 3
    assert within_group_variance(features, groups) == pytest.approx(expected.item(), rel=1e-10)
    assert within_group_variance(torch.ones(4, 2), torch.tensor([0, 0, 1, 1])) == 0


def test_share_correct_counts_only_what_was_asked() -> None:
    logits = torch.eye(3)
    assert hits(logits, torch.tensor([0, 1, 0]), torch.tensor([True, True, True])).tolist() == [1, 1, 0]
    assert hits(logits, torch.tensor([0, 1, 0]), torch.tensor([True, True, False])).tolist() == [1, 1]


# ---- losses of captions and pictures, colours, norms


def test_the_cosine_ranking_loss_is_the_reports() -> None:
    torch.manual_seed(0)
    image, own, wrong = (torch.randn(5, 7, dtype=torch.float64, requires_grad=True) for _ in range(3))
    label = torch.tensor([0, 1, 1, 2, 0])
    value = cosine_ranking_loss(image, own, wrong, label, 0.2)
    x, v, w = (tensor.detach().numpy() for tensor in (image, own, wrong))

    def cosine(a: np.ndarray, b: np.ndarray) -> float:
        return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))

    captions = [max(0, 0.2 - cosine(x[n], v[n]) + cosine(x[n], w[n])) for n in range(5)]
    # the wrong picture is the row before's, where that is of another class: not for rows 0 (class of row 4) and 2
    pictures = [max(0, 0.2 - cosine(x[n], v[n]) + cosine(x[n - 1], v[n])) for n in (1, 3, 4)]
    assert value.item() == pytest.approx(np.mean(captions) + np.mean(pictures), rel=1e-9)
    assert torch.autograd.gradcheck(lambda *t: cosine_ranking_loss(*t, label, 5.0), (image, own, wrong))


def test_the_joint_embedding_loss_is_symmetric_and_spares_ones_own_class() -> None:
    torch.manual_seed(0)
    image, text = (torch.randn(4, 6, dtype=torch.float64, requires_grad=True) for _ in range(2))
    label = torch.tensor([0, 1, 0, 2])
    score, expected = (image @ text.T).detach().numpy(), 0.0
    for n in range(4):
        others = [m for m in range(4) if label[m] != label[n]]
        expected += np.mean([max(0, 1 + score[n, m] - score[n, n]) for m in others]) / 4
        expected += np.mean([max(0, 1 + score[m, n] - score[n, n]) for m in others]) / 4
    value = joint_embedding_loss(image, text, label, 1.0)
    assert value.item() == pytest.approx(expected, rel=1e-9)
    assert joint_embedding_loss(text, image, label, 1.0).item() == pytest.approx(expected, rel=1e-9)
    assert torch.autograd.gradcheck(lambda a, b: joint_embedding_loss(a, b, label, 9.0), (image, text))


def test_colour_consistency_compares_means_and_covariances_of_pixels() -> None:
    torch.manual_seed(0)
    small, large = torch.rand(3, 3, 4, 4), torch.rand(3, 3, 8, 8)
    expected = 0.0
    for one, other in zip(small.double().numpy(), large.double().numpy(), strict=True):
        a, b = one.reshape(3, -1), other.reshape(3, -1)
        expected += ((a.mean(1) - b.mean(1)) ** 2).sum() / 3
        expected += 5 * ((np.cov(a, bias=True) - np.cov(b, bias=True)) ** 2).sum() / 3
    assert compute_colour_consistency(small, large).item() == pytest.approx(expected, rel=1e-5)
    enlarged = torch.nn.functional.interpolate(small, scale_factor=2)
    assert compute_colour_consistency(small, enlarged).item() == pytest.approx(0, abs=1e-10)


def test_stage_two_with_a_shortcut_begins_at_the_picture_below_and_is_held_to_it() -> None:
    torch.manual_seed(0)
    stage = StageTwoGenerator(
        condition_dim=3, previous_resolution=8, factor=2, channels=4, blocks=1, shortcut=True, consistency_weight=2.0
    )
    image = torch.rand(2, 3, 8, 8) * 1.6 - 0.8
    (drawn,) = stage(torch.randn(2, 3), torch.empty(2, 0), image)
    enlarged = torch.nn.functional.interpolate(image, size=16, mode="bilinear")
    assert torch.allclose(drawn, enlarged, atol=1e-5)
    assert dict(stage.weights) == {"consistency": 2.0}
    averaged = drawn.reshape(2, 3, 8, 2, 8, 2).mean((3, 5))
    assert torch.allclose(stage.terms((drawn,), image)["consistency"], (averaged - image).square().mean())
    assert StageTwoGenerator(condition_dim=3, previous_resolution=8).terms((drawn,), image) == {}


def test_skip_layer_excitation_scales_channels_by_a_gate_of_the_coarse_map() -> None:
    layer, coarse, fine = Excitation(3, 2), torch.randn(2, 3, 8, 8), torch.randn(2, 2, 16, 16)
    first, last = layer.gate[1], layer.gate[3]
    pooled = coarse.reshape(2, 3, 4, 2, 4, 2).mean((3, 5))  # 8×8 to 4×4
    hidden = torch.einsum("ncij,dcij->nd", pooled, first.weight) + first.bias
    hidden = hidden * torch.sigmoid(hidden)
    gate = torch.sigmoid(hidden @ last.weight[:, :, 0, 0].T + last.bias)
    assert torch.allclose(layer(coarse, fine), fine * gate[:, :, None, None], atol=1e-6)


def test_r3gans_block_begins_as_the_identity_and_adds_a_bottleneck() -> None:
    block, x = ResidualBlock(4, 4, 3), torch.randn(2, 4, 5, 5)
    assert torch.equal(block(x), x)
    first, bias, middle, other_bias, last = block.layers
    for layer in (bias, other_bias, last):
        torch.nn.init.normal_(layer.bias if layer is not last else layer.weight)
    y = F.leaky_relu(
        torch.einsum("nchw,dc->ndhw", x, first.weight[:, :, 0, 0]) + bias.bias[:, None, None], 0.2
    )  # to 8 channels
    halves = [
        F.conv2d(part, weight, padding=1)
        for part, weight in zip(y.chunk(2, 1), middle.weight.chunk(2), strict=True)  # two groups of four
    ]
    y = F.leaky_relu(torch.cat(halves, 1) + other_bias.bias[:, None, None], 0.2)
    y = x + torch.einsum("nchw,dc->ndhw", y, last.weight[:, :, 0, 0])
    assert torch.allclose(block(x), y, atol=1e-5)


def test_r3gans_resampling_keeps_a_constant_and_is_the_binomial_filter() -> None:
    down, up = Resampling(2, 2, up=False), Resampling(2, 2, up=True)
    assert (
        torch.allclose(down(torch.ones(1, 2, 8, 8)), torch.ones(1, 2, 4, 4)) and up(torch.ones(1, 2, 4, 4)).eq(1).all()
    )
    x = torch.randn(1, 2, 8, 8)
    taps = torch.tensor([0.25, 0.5, 0.25])
    expected = torch.einsum("ncij,i,j->nc", x[:, :, 1:4, 3:6], taps, taps)  # around row 2, column 4
    assert torch.allclose(down(x)[:, :, 1, 2], expected, atol=1e-6)


def test_virtual_batch_norm_uses_the_fixed_batch_and_the_image_itself() -> None:
    torch.manual_seed(0)
    layer = VirtualBatchNorm2d(3)
    torch.nn.init.normal_(layer.weight)
    torch.nn.init.normal_(layer.bias)
    x = torch.randn(REFERENCE_BATCH_SIZE + 4, 3, 5, 5) + 2
    found = layer(x).detach().double().numpy()
    values, fixed = x.double().numpy(), x[:REFERENCE_BATCH_SIZE].double().numpy()
    weight, bias = layer.weight.detach().double().numpy(), layer.bias.detach().double().numpy()
    for row in range(len(x)):
        seen = fixed if row < REFERENCE_BATCH_SIZE else np.concatenate([fixed, values[row : row + 1]])
        for channel in range(3):
            mean, variance = seen[:, channel].mean(), seen[:, channel].var()
            expected = (values[row, channel] - mean) / np.sqrt(variance + 1e-5) * weight[channel] + bias[channel]
            assert np.allclose(found[row, channel], expected, atol=1e-4)


def test_the_backwards_direction_reads_a_caption_backwards_whatever_pads_it() -> None:
    """Against torch's own packed bidirectional GRU."""
    torch.manual_seed(0)
    network = BidirectionalGRU(12, 5, 8)
    both = torch.nn.GRU(5, 4, batch_first=True, bidirectional=True)
    for mine, suffix in ((network.forwards, "_l0"), (network.backwards, "_l0_reverse")):
        for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
            getattr(both, name + suffix).data.copy_(getattr(mine, f"{name}_l0"))
    tokens = torch.tensor([[3, 4, 5, 0, 0], [6, 7, 8, 9, 10], [2, 0, 0, 0, 0]])
    packed = torch.nn.utils.rnn.pack_padded_sequence(
        network.words(tokens), torch.tensor([3, 5, 1]), batch_first=True, enforce_sorted=False
    )
    _, last = both(packed)
    assert torch.allclose(network(tokens), torch.cat([last[0], last[1]], 1), atol=1e-6)

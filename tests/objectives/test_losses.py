"""Losses against closed forms, plain loops and NumPy."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from closed_forms import FAKE, REAL, RIGHT, WRONG, critic, softplus

from stackflower.objectives.base import Pairs
from stackflower.objectives.bce import BinaryCrossEntropy
from stackflower.objectives.contrast import compute_contrastive_loss
from stackflower.objectives.hinge import Hinge
from stackflower.objectives.least_squares import LeastSquares
from stackflower.objectives.relativistic import Relativistic
from stackflower.objectives.wasserstein import Wasserstein
from stackflower.penalties.base import sum_scores
from stackflower.stages.base import OtherTexts, Text, Verdict
from stackflower.stages.contrast import compute_similarities


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


def test_hinge_equals_its_closed_form() -> None:
    scores = {"real": 0.3, "negative": -0.4, "fake": -1.7}
    terms = Hinge().discriminator_terms(critic(scores), Pairs(REAL, FAKE, RIGHT, WRONG, RIGHT))
    assert [terms[name].item() for name in ("real", "negative", "fake")] == pytest.approx([0.7, 0.3, 0.0])
    assert Hinge().generator_terms(critic(scores), Pairs(REAL, FAKE, RIGHT, None, RIGHT))[
        "adversarial"
    ].item() == pytest.approx(1.7)


def test_least_squares_equal_their_closed_form() -> None:
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

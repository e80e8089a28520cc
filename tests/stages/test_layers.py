"""Layers and networks against closed forms, plain loops and NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from stackflower.stages.conditioning import ConditioningAugmentation, compute_kl_to_standard_normal
from stackflower.stages.generators.fastgan import Excitation
from stackflower.stages.generators.stage2 import StageTwoGenerator
from stackflower.stages.generators.tree import compute_colour_consistency
from stackflower.stages.layers import REFERENCE_BATCH_SIZE, MinibatchDeviation, UpsampleConv, VirtualBatchNorm2d
from stackflower.stages.r3gan_blocks import Resampling, ResidualBlock


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

"""Regularisers that go with any objective. They are computed in float32, outside autocast."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stackflower.objectives import Critic
from stackflower.ranges import Count, Positive, Weight
from stackflower.registry import register
from stackflower.stages.base import Text, Verdict


class Shown(NamedTuple):
    """What a penalty may look at; the generator's side has `noise` and no `real`."""

    critic: Critic
    real: Tensor | None  # (N, 3, R, R)
    fake: Tensor  # (N, 3, R, R)
    text: Text  # what `real` shows; on the generator's side what `fake` was asked to show
    noise: Tensor  # (N, Z), what `fake` was drawn from
    drawn: Text | None = None  # on the discriminator's side, what `fake` was asked to show


class Penalty(nn.Module, ABC):
    """A regulariser of one side, computed every `every` steps and then weighed `every`-fold (lazy regularisation)."""

    side: ClassVar[Literal["discriminator", "generator"]] = "discriminator"
    reads: ClassVar[str | None] = None  # the kind of score it needs, "logit" or "energy"; None: any

    def __init__(self, *, weight: Weight, every: Count = 1):
        super().__init__()
        self.weight, self.every = weight, every

    @abstractmethod
    def forward(self, shown: Shown) -> Tensor:
        """The unweighted scalar."""


@register("penalty", "r1")
class R1(Penalty):
    """Zero-centred gradient penalty on real images (Mescheder et al. 2018): ½·E‖∇ₓ D(x)‖².

    Args:
        weight: γ; 10 in the paper.
        every: how often it is computed, in steps (16 in StyleGAN2).
    """

    def __init__(self, *, weight: Weight = 10.0, every: Count = 1):
        super().__init__(weight=weight, every=every)

    def forward(self, shown: Shown) -> Tensor:
        assert shown.real is not None
        return _zero_centred(shown.critic, shown.real, shown.text)


@register("penalty", "r2")
class R2(Penalty):
    """Zero-centred gradient penalty on drawn images (Mescheder et al. 2018): ½·E‖∇ₓ D(G(z))‖².

    Beside `r1` it bounds the slope where the generator is, too, which with a loss that can fall for ever is what keeps a
    training together (R3GAN, Huang et al. 2024, uses both).

    Args:
        weight: γ; the same as R1's in both papers.
        every: how often it is computed, in steps.
    """

    def __init__(self, *, weight: Weight = 10.0, every: Count = 1):
        super().__init__(weight=weight, every=every)

    def forward(self, shown: Shown) -> Tensor:
        assert shown.drawn is not None
        return _zero_centred(shown.critic, shown.fake, shown.drawn)


@register("penalty", "gradient")
class GradientPenalty(Penalty):
    """Slope of one between real and drawn images (Gulrajani et al. 2017, WGAN-GP, equation 3): E[ (‖∇D(x̂)‖ − 1)² ].

    x̂ lies at a random place on the line from a real image to a drawn one and is judged with the real one's text. The
    critic must judge each picture by itself: no batch norm.

    Args:
        weight: λ; 10 in the paper.
        every: how often it is computed, in steps.
    """

    reads = "logit"

    def __init__(self, *, weight: Weight = 10.0, every: Count = 1):
        super().__init__(weight=weight, every=every)

    def forward(self, shown: Shown) -> Tensor:
        assert shown.real is not None
        real, fake = shown.real.detach().float(), shown.fake.detach().float()
        place = torch.rand(len(real), 1, 1, 1, device=real.device)
        between = torch.lerp(fake, real, place).requires_grad_()
        (verdict,) = shown.critic(between, [shown.text])
        (slope,) = torch.autograd.grad(_total(verdict), between, create_graph=True)
        return (_length(slope) - 1).square().mean()


@register("penalty", "matching-aware")
class MatchingAwareGradient(Penalty):
    """Matching-aware gradient penalty on real, matching pairs (Tao et al. 2022, DF-GAN, equation 2).

    E[ (‖∇ₓ D(x, e)‖ + ‖∇ₑ D(x, e)‖)^p ], where e is what the discriminator reads of the text.

    Args:
        weight: k; 2 in the paper.
        power: p; 6 in the paper.
        every: how often it is computed, in steps.
    """

    reads = "logit"

    def __init__(self, *, weight: Weight = 2.0, power: Positive = 6.0, every: Count = 1):
        super().__init__(weight=weight, every=every)
        self.power = power

    def forward(self, shown: Shown) -> Tensor:
        assert shown.real is not None
        images = shown.real.detach().float().requires_grad_()
        read = [part.detach().float().requires_grad_() for part in (shown.text.embedding, shown.text.condition)]
        (verdict,) = shown.critic(images, [Text(*read)])
        slopes = torch.autograd.grad(_total(verdict), [images, *read], create_graph=True, allow_unused=True)
        lengths = [_length(slope) for slope in slopes if slope is not None]
        return torch.stack(lengths).sum(0).pow(self.power).mean()


def _zero_centred(critic: Critic, images: Tensor, text: Text) -> Tensor:
    """½·E‖∇ₓ D(x)‖² at `images` (N, 3, R, R), each judged with its text."""
    images = images.detach().float().requires_grad_()
    (verdict,) = critic(images, [text])
    (slope,) = torch.autograd.grad(_total(verdict), images, create_graph=True)
    return 0.5 * slope.float().square().sum((1, 2, 3)).mean()


def _total(verdict: Verdict) -> Tensor:
    """The scores whose slope is measured: with text and, where the discriminator judges that too, without."""
    return verdict.match.sum() if verdict.real is None else verdict.match.sum() + verdict.real.sum()


def _length(slope: Tensor) -> Tensor:
    """Euclidean length of each row (N, …); its own gradient stays finite at zero."""
    return slope.float().flatten(1).square().sum(1).add(1e-12).sqrt()


@register("penalty", "mode-seeking")
class ModeSeeking(Penalty):
    """Rewards different pictures for different noises (Mao et al. 2019): E[ ‖z₁ − z₂‖ / ‖G(z₁) − G(z₂)‖ ].

    Neighbours in the batch are compared, so it wants `train.noises_per_caption = 2`; both images and noises are measured
    by their mean absolute difference, as the authors do.

    Args:
        weight: its weight in the generator's loss.
        every: how often it is computed, in steps.
    """

    side = "generator"

    def __init__(self, *, weight: Weight = 1.0, every: Count = 1):
        super().__init__(weight=weight, every=every)

    def forward(self, shown: Shown) -> Tensor:
        images = (shown.fake[0::2].float() - shown.fake[1::2].float()).abs().mean((1, 2, 3))
        noises = (shown.noise[0::2] - shown.noise[1::2]).abs().mean(1)
        return (noises / (images + 1e-5)).mean()


@register("penalty", "out-of-range")
class OutOfRange(Penalty):
    """Keeps unbounded pictures within [-1, 1]: E[ max(|x| − 1, 0)² ], the anime-face report's cure for specks.

    Args:
        weight: its weight in the generator's loss.
        every: how often it is computed, in steps.
    """

    side = "generator"

    def __init__(self, *, weight: Weight = 1.0, every: Count = 1):
        super().__init__(weight=weight, every=every)

    def forward(self, shown: Shown) -> Tensor:
        return (shown.fake.float().abs() - 1).relu().square().mean()


@register("penalty", "greyscale-structure")
class GreyscaleStructure(Penalty):
    """The competition report's structure loss, a failed experiment: real pictures in grey are called real, drawn ones not.

    Cross-entropy of D(grey(x), e) against 1 and of D(grey(G(z)), e) against 0. It was meant to make the shape count; the
    generator, which is only asked to seem real, learns that grey is what seems real.

    Args:
        weight: its weight in the discriminator's loss.
        every: how often it is computed, in steps.
    """

    reads = "logit"

    def __init__(self, *, weight: Weight = 1.0, every: Count = 1):
        super().__init__(weight=weight, every=every)

    def forward(self, shown: Shown) -> Tensor:
        assert shown.real is not None and shown.drawn is not None
        luminance = shown.fake.new_tensor([0.299, 0.587, 0.114], dtype=torch.float32)[:, None, None]
        real, fake = (
            (images.detach().float() * luminance).sum(1, keepdim=True).expand(-1, 3, -1, -1)
            for images in (shown.real, shown.fake)
        )
        (on_real,), (on_fake,) = shown.critic(real, [shown.text]), shown.critic(fake, [shown.drawn])
        return F.softplus(-on_real.match).mean() + F.softplus(on_fake.match).mean()

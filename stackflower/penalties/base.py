"""The base class of regularisers that go with any objective. They are computed in float32, outside autocast."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar, Literal, NamedTuple

from torch import Tensor, nn

from stackflower.declarations import Declared, Not, Offer, Requirement
from stackflower.options import Count, Weight
from stackflower.stages.base import Critic, Text, Verdict, average_per_image


class PenaltyInputs(NamedTuple):
    """What a penalty may use."""

    critic: Critic
    real: Tensor  # (N, 3, R, R)
    fake: Tensor  # (N, 3, R, R)
    text: Text  # of `real`
    fake_text: Text
    noise: Tensor  # (N, Z), from which `fake` was generated
    maps: Callable[[Tensor], tuple[Tensor, ...]]  # of images, those of a pretrained network that the discriminator sees


LOGIT_SCORES = Requirement("logit scores", of="discriminator", why="works on logit scores, and {other} gives {offered}")
INDEPENDENT_SCORES = Requirement(
    "independent scores",
    of="discriminator",
    why="measures the gradient at each image, and {other} scores an image by the whole batch",
)
BOUNDED_GRADIENT = Offer("bounded gradient", when={"weight": Not(0)})


class Penalty(Declared, nn.Module, ABC):
    """A regulariser of one network, computed every `every` steps and then weighted `every`-fold (lazy regularisation,
    Karras et al. 2020)."""

    network: ClassVar[Literal["discriminator", "generator"]] = "discriminator"  # whose loss it joins

    def __init__(self, *, weight: Weight, every: Count = 1):
        super().__init__()
        self.weight, self.every = weight, every

    @abstractmethod
    def forward(self, inputs: PenaltyInputs) -> Tensor:
        """The unweighted scalar."""


def sum_scores(verdict: Verdict) -> Tensor:
    """The sum of the scores: with text and, where the discriminator gives them too, without."""
    score = verdict.score.sum()
    return score if verdict.real is None else score + average_per_image(verdict.real).sum()


def compute_gradient_norm(gradient: Tensor) -> Tensor:
    """The Euclidean norm of each row of (N, …); its own gradient stays finite at zero."""
    return gradient.float().flatten(1).square().sum(1).add(1e-12).sqrt()

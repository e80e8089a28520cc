"""Regularisers that go with any objective. They are computed in float32, outside autocast."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, Literal, NamedTuple

from torch import Tensor, nn

from stackflower.options import Count, Weight
from stackflower.stages.base import Critic, Text, Verdict


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


def total_score(verdict: Verdict) -> Tensor:
    """The scores whose slope is measured: with text and, where the discriminator judges that too, without."""
    return verdict.match.sum() if verdict.real is None else verdict.match.sum() + verdict.real.sum()


def gradient_norm(slope: Tensor) -> Tensor:
    """Euclidean length of each row (N, …); its own gradient stays finite at zero."""
    return slope.float().flatten(1).square().sum(1).add(1e-12).sqrt()

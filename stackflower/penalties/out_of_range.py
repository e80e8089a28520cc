"""Penalty on pixel values outside [-1, 1]."""

from __future__ import annotations

from torch import Tensor

from stackflower.options import Count, Weight
from stackflower.penalties.base import Penalty, PenaltyInputs
from stackflower.registry import register


@register("penalty", "out-of-range")
class OutOfRange(Penalty):
    """Penalty on pixel values outside [-1, 1], for generators with unbounded images: E[max(|x| − 1, 0)²].

    The anime-face report uses it to remove specks.

    Args:
        weight: weight in the generator's loss.
        every: interval in steps.
    """

    network = "generator"

    def __init__(self, *, weight: Weight = 1.0, every: Count = 1):
        super().__init__(weight=weight, every=every)

    def forward(self, inputs: PenaltyInputs) -> Tensor:
        return (inputs.fake.float().abs() - 1).relu().square().mean()

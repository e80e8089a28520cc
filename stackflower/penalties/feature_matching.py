"""Feature matching on the maps of a pretrained network."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from stackflower.declarations import Requirement
from stackflower.options import Count, Weight
from stackflower.penalties.base import Penalty, PenaltyInputs
from stackflower.registry import register
from stackflower.utils.distributed import gather


@register("penalty", "feature-matching")
class FeatureMatching(Penalty):
    """Feature matching (Salimans et al. 2016, section 3.1): the squared distance between moments of image features.

    The use of second moments and of a pretrained network follows GFMN (dos Santos et al. 2019).

    The features of an image are the mean and the standard deviation over positions of each channel of the maps that the
    discriminator sees. Over the batch, each feature has a mean μ and a standard deviation σ. The penalty is
    ((μ′ − μ) / σ)² + (σ′/σ − 1)², averaged over features; primes mark generated images.

    Args:
        weight: weight in the generator's loss.
        every: interval in steps.
    """

    network = "generator"
    requires = (
        Requirement(
            "feature maps",
            of="discriminator",
            why="compares the maps of a pretrained network that the discriminator sees, but {other} sees none",
            dispensable=True,
        ),
    )

    def __init__(self, *, weight: Weight = 1.0, every: Count = 1):
        super().__init__(weight=weight, every=every)

    def forward(self, inputs: PenaltyInputs) -> Tensor:
        with torch.no_grad():
            real = gather(describe_maps(inputs.maps(inputs.real)))
        fake = gather(describe_maps(inputs.maps(inputs.fake)))
        deviation, mean = torch.std_mean(real, 0)
        deviation = deviation.clamp_min(1e-4)
        variance, centre = torch.var_mean((fake - mean) / deviation, 0)
        return centre.square().mean() + ((variance + 1e-4).sqrt() - 1).square().mean()


def describe_maps(maps: Sequence[Tensor]) -> Tensor:
    """Describe maps `(N, C, H, W)` by the mean and standard deviation over positions of each channel, `(N, F)`."""
    moments = []
    for feature_map in maps:
        variance, mean = torch.var_mean(feature_map.float(), (2, 3), correction=0)
        moments += [mean, (variance + 1e-4).sqrt()]
    return torch.cat(moments, 1)

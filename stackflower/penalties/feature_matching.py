"""Feature matching: moments of a pretrained network's maps."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from stackflower.declarations import Requirement
from stackflower.options import Count, Weight
from stackflower.penalties.base import Penalty, PenaltyInputs
from stackflower.registry import register
from stackflower.utils.distributed import gathered


@register("penalty", "feature-matching")
class FeatureMatching(Penalty):
    """Draws the moments of generated images' features towards those of real ones (Salimans et al. 2016, section 3.1).

    The second moments and the pretrained network are those of GFMN (dos Santos et al. 2019).

    Of each channel of the maps that the discriminator sees, the mean and standard deviation over positions describe an
    image. Over the batch, each of these numbers has a mean μ and a standard deviation σ, and the penalty is the mean of
    ((μ′ − μ) / σ)² + (σ′/σ − 1)² over all of them, primes marking generated images.

    Args:
        weight: its weight in the generator's loss.
        every: interval in steps.
    """

    network = "generator"
    requires = (
        Requirement(
            "feature maps",
            of="discriminator",
            why="compares the maps of a pretrained network that the discriminator sees, and {other} sees none",
            dispensable=True,
        ),
    )

    def __init__(self, *, weight: Weight = 1.0, every: Count = 1):
        super().__init__(weight=weight, every=every)

    def forward(self, inputs: PenaltyInputs) -> Tensor:
        with torch.no_grad():
            real = gathered(describe_maps(inputs.maps(inputs.real)))
        fake = gathered(describe_maps(inputs.maps(inputs.fake)))
        deviation, mean = torch.std_mean(real, 0)
        deviation = deviation.clamp_min(1e-4)
        variance, centre = torch.var_mean((fake - mean) / deviation, 0)
        return centre.square().mean() + ((variance + 1e-4).sqrt() - 1).square().mean()


def describe_maps(maps: Sequence[Tensor]) -> Tensor:
    """Maps (N, C, H, W) as (N, F): of each channel, the mean over positions and the standard deviation."""
    found = []
    for each in maps:
        variance, mean = torch.var_mean(each.float(), (2, 3), correction=0)
        found += [mean, (variance + 1e-4).sqrt()]
    return torch.cat(found, 1)

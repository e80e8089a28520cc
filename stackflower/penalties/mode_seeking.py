"""The mode-seeking regulariser."""

from __future__ import annotations

from typing import Annotated, Literal

from annotated_types import Ge
from torch import Tensor

from stackflower.declarations import Offer, Requirement, SettingRequirement
from stackflower.features.base import Features, compute_mean_vectors, resize_images
from stackflower.options import Count, Weight
from stackflower.penalties.base import Penalty, PenaltyInputs
from stackflower.registry import register


@register("penalty", "mode-seeking")
class ModeSeeking(Penalty):
    """Rewards different images for different latents (Mao et al. 2019): E[ ‖z₁ − z₂‖ / ‖G(z₁) − G(z₂)‖ ].

    It compares neighbours in the batch, so it needs `train.latents_per_caption = 2`; images and latents are compared by
    their mean absolute difference, as in the authors' release. Over features, images are compared by the positions'
    means of a pretrained network's maps, each normalised to unit length, so that noise must change what is shown and
    not only its colour or place.

    Args:
        weight: its weight in the generator's loss.
        space: what is compared, pixels or features.
        size: height and width at which features look at the images.
        every: interval in steps.
    """

    network = "generator"
    requires = (
        SettingRequirement("train.latents_per_caption", 2, why="compares two images of one caption"),
        Requirement(
            "pretrained network",
            of="features",
            why="looks through a pretrained network, and none is chosen",
            when={"space": "features"},
        ),
    )
    brings = {"features": "efficientnet-lite0"}
    offers = (Offer("use of features", when={"space": "features"}),)

    def __init__(
        self,
        *,
        features: Features | None = None,
        weight: Weight = 1.0,
        every: Count = 1,
        space: Literal["pixels", "features"] = "pixels",
        size: Annotated[int, Ge(32)] = 64,
    ):
        super().__init__(weight=weight, every=every)
        self.features, self.size = features if space == "features" else None, size

    def _represent(self, images: Tensor) -> Tensor:
        """(N, …): what the distance of images is measured in."""
        if self.features is None:
            return images.float()
        return compute_mean_vectors(self.features(resize_images(images, self.size)))

    def forward(self, inputs: PenaltyInputs) -> Tensor:
        compared = self._represent(inputs.fake)
        images = (compared[0::2] - compared[1::2]).abs().mean(tuple(range(1, compared.ndim)))
        noises = (inputs.noise[0::2] - inputs.noise[1::2]).abs().mean(1)
        return (noises / (images + 1e-5)).mean()

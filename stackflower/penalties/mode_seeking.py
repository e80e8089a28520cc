"""Mode-seeking regulariser."""

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
    """Mode-seeking regulariser (Mao et al. 2019): E[‖z₁ − z₂‖ / ‖G(z₁) − G(z₂)‖].

    It rewards different images for different latents. Distances are mean absolute differences, as in the authors'
    release. Neighbours in the batch are compared, which requires `train.latents_per_caption=2`.

    In feature space, an image is represented by the means of a pretrained network's maps over positions, each
    normalised to unit length. The noise must then change the content of the image, not only its colours or positions.

    Args:
        features: pretrained network, for the space "features".
        weight: weight in the generator's loss.
        space: space in which images are compared, "pixels" or "features".
        size: height and width to which images are resized for the pretrained network.
        every: interval in steps.
    """

    network = "generator"
    requires = (
        SettingRequirement("train.latents_per_caption", 2, why="compares two images of one caption"),
        Requirement(
            "pretrained network",
            of="features",
            why="needs a pretrained network, and none is chosen",
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
        """Map images to the representation in which they are compared, `(N, …)`."""
        if self.features is None:
            return images.float()
        return compute_mean_vectors(self.features(resize_images(images, self.size)))

    def forward(self, inputs: PenaltyInputs) -> Tensor:
        images = self._represent(inputs.fake)
        image_distance = (images[0::2] - images[1::2]).abs().mean(tuple(range(1, images.ndim)))
        noise_distance = (inputs.noise[0::2] - inputs.noise[1::2]).abs().mean(1)
        return (noise_distance / (image_distance + 1e-5)).mean()

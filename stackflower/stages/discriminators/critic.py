"""Critic of a Wasserstein GAN: the matching discriminator without batch normalisation."""

from __future__ import annotations

from typing import Literal

from stackflower.options import Count
from stackflower.registry import register
from stackflower.stages.base import Discriminator
from stackflower.stages.discriminators.matching import MatchingDiscriminator


@register("discriminator", "critic")
class CriticDiscriminator(MatchingDiscriminator):
    """Matching discriminator with layer normalisation or none (Gulrajani et al. 2017, section 4).

    Batch normalisation is excluded because a penalty on the gradient of an image's score requires scores that do not
    depend on the rest of the batch.

    Args:
        channels: width of the first layer; doubles with every halving of the resolution, up to 8-fold.
        text: text input, as in `matching`.
        projection_dim: output size of the linear layer of the text embedding.
        norm: normalisation of all layers except the first.
    """

    brings = {"objective": "wasserstein"}
    offers = Discriminator.offers

    def __init__(
        self,
        *,
        text_dim: int,
        condition_dim: int,
        resolution: Count,
        channels: Count = 64,
        text: Literal["condition", "embedding"] = "embedding",
        projection_dim: Count = 128,
        norm: Literal["layer", "none"] = "layer",
    ):
        super().__init__(
            text_dim=text_dim,
            condition_dim=condition_dim,
            resolution=resolution,
            channels=channels,
            text=text,
            projection_dim=projection_dim,
            norm=norm,
        )

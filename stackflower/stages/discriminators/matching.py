"""Matching-aware discriminator of GAN-CLS and StackGAN."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import ClassVar, Literal

import torch.nn.functional as F
from torch import Tensor, nn

from stackflower.declarations import Offer, Offers
from stackflower.options import Count
from stackflower.registry import register
from stackflower.stages.base import Discriminator, Text, Verdict, initialise
from stackflower.stages.contrast import compute_similarities
from stackflower.stages.layers import MinibatchDeviation, Norm, build_norm2d, require_doublings


def build_strided_block(in_channels: int, out_channels: int, norm: Norm) -> list[nn.Module]:
    """Build a 4×4 convolution of stride 2, followed by normalisation and a leaky ReLU."""
    return [
        nn.Conv2d(in_channels, out_channels, 4, 2, 1, bias=norm == "none"),
        build_norm2d(norm, out_channels),
        nn.LeakyReLU(0.2, inplace=True),
    ]


@register("discriminator", "matching")
class MatchingDiscriminator(Discriminator):
    """Matching-aware discriminator (Reed et al. 2016, section 4.2; Zhang et al. 2016, section 3.2).

    Strided convolutions reduce the image to 4×4. The text is repeated over all positions and joined to the features by
    a 3×3 convolution; a 4×4 convolution gives the logit. The defaults are those of StackGAN's Stage-I discriminator.

    Args:
        channels: width of the first layer; doubles with every halving of the resolution, up to 8-fold.
        text: text input: the detached mean of the conditioning ("condition", as in StackGAN's release), or the text
            embedding after a linear layer ("embedding", as in GAN-CLS).
        projection_dim: output size of that linear layer.
        norm: normalisation of all layers except the first.
        minibatch_deviation: append the standard deviation over the batch to the features.
        unconditional: also score images without text (`Verdict.real`), as in StackGAN's Stage-II.
        contrastive: also compare each image with each text of the batch (`Verdict.similarity`): the cosine of averaged
            features and text embedding, each projected to `projection_dim`, divided by a temperature of 0.1
            (Zhang et al. 2021, XMC-GAN, eq. 3).
    """

    offers: ClassVar[Offers] = (
        "logit scores",
        Offer(
            "independent scores",
            when={"norm": ("layer", "instance", "none"), "minibatch_deviation": False},
        ),
        Offer("similarities", when={"contrastive": True}),
    )

    def __init__(
        self,
        *,
        text_dim: int,
        condition_dim: int,
        resolution: Count,
        channels: Count = 64,
        text: Literal["condition", "embedding"] = "condition",
        projection_dim: Count = 128,
        norm: Norm = "batch",
        minibatch_deviation: bool = False,
        unconditional: bool = False,
        contrastive: bool = False,
    ):
        super().__init__()
        depth = require_doublings(resolution, "The resolution of this discriminator")
        widths = [channels * min(2**level, 8) for level in range(depth)]
        layers = build_strided_block(3, widths[0], "none")
        for narrow, wide in itertools.pairwise(widths):
            layers += build_strided_block(narrow, wide, norm)
        if minibatch_deviation:
            layers.append(MinibatchDeviation())
        self.layers = nn.Sequential(*layers)
        width, pooled = widths[-1], widths[-1] + minibatch_deviation
        self.project = (
            nn.Sequential(nn.Linear(text_dim, projection_dim), nn.LeakyReLU(0.2)) if text == "embedding" else None
        )
        joined_dim = projection_dim if self.project else condition_dim
        self.join = nn.Conv2d(pooled + joined_dim, width, 3, padding=1, bias=False)
        self.head = nn.Sequential(build_norm2d(norm, width), nn.LeakyReLU(0.2, inplace=True), nn.Conv2d(width, 1, 4))
        self.unconditional_head = nn.Conv2d(pooled, 1, 4) if unconditional else None
        self.image_key = nn.Linear(width, projection_dim) if contrastive else None
        self.text_key = nn.Linear(text_dim, projection_dim) if contrastive else None
        initialise(self)

    def trunk(self, perceived: Tensor) -> Tensor:
        return self.layers(perceived)

    def judge(self, features: Tensor, text: Text) -> Verdict:
        return self._verdict(features, self._join_image(features), text)

    def verdicts(self, perceived: Tensor, texts: Sequence[Text]) -> list[Verdict]:
        # the convolution over features and text is a sum of two convolutions, so the features' part is computed once
        features = self.trunk(perceived)
        image_part = self._join_image(features)
        return [self._verdict(features, image_part, text) for text in texts]

    def _join_image(self, features: Tensor) -> Tensor:
        return F.conv2d(features, self.join.weight[:, : features.shape[1]], padding=1)

    def _verdict(self, features: Tensor, image_part: Tensor, text: Text) -> Verdict:
        text_features = self.project(text.embedding) if self.project is not None else text.condition
        text_features = text_features.to(features.dtype)[:, :, None, None].expand(-1, -1, *features.shape[2:])
        joined = image_part + F.conv2d(text_features, self.join.weight[:, features.shape[1] :], padding=1)
        real = None if self.unconditional_head is None else self.unconditional_head(features).flatten().float()
        return Verdict(self.head(joined).flatten().float(), real, self._similarity(features, text))

    def _similarity(self, features: Tensor, text: Text) -> Tensor | None:
        if self.image_key is None or self.text_key is None or not self.training:
            return None
        return compute_similarities(
            self.image_key(features[:, : self.image_key.in_features].mean((2, 3))), self.text_key, text
        )

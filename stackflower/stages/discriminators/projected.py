"""The discriminator of Projected GAN (Sauer et al. 2021), conditioned on text: small heads on a pretrained network's
features."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from stackflower.declarations import Offer, Requirement
from stackflower.errors import ComponentError
from stackflower.features.base import Features, compute_mean_vectors, resize_images
from stackflower.options import Count, Natural
from stackflower.registry import register
from stackflower.stages.base import Discriminator, Text, Verdict
from stackflower.stages.contrast import compute_similarities
from stackflower.stages.frozen import FrozenNetwork
from stackflower.stages.layers import MinibatchDeviation

WIDTH_FACTORS = (1, 1, 2, 4)  # channels after mixing, fine to coarse, relative to the finest map's
HEAD_SIZE = 4  # height and width at which heads judge


class PyramidMixer(nn.Module):
    """Random, untrained mixing of a pyramid (after section 3.2): 1×1 convolutions over channels, then 3×3 convolutions
    from coarse to fine, the coarser map upsampled and joined, where the release adds it and doubles every map. It
    spreads what single channels show over all, so that the heads attend to all of it.

    Its weights come from a fixed seed.
    """

    def __init__(self, channels: Sequence[int], finest: int):
        super().__init__()
        self.channels = [finest * times for times in WIDTH_FACTORS[: len(channels)]]
        across = [nn.Conv2d(given, mixed, 1) for given, mixed in zip(channels, self.channels, strict=True)]
        coarser = [*self.channels[1:], 0]
        between = [nn.Conv2d(own + other, own, 3, padding=1) for own, other in zip(self.channels, coarser, strict=True)]
        self.across, self.between = nn.ModuleList(across), nn.ModuleList(between)
        generator = torch.Generator().manual_seed(0)
        for layer in (*across, *between):
            # with unit gain: nothing between them is nonlinear
            scale = (layer.weight[0].numel()) ** -0.5
            random = torch.randn(layer.weight.shape, generator=generator, device="cpu") * scale
            layer.weight = nn.Parameter(random.to(layer.weight.device))
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Maps (N, C, H, W), fine to coarse, to as many with the channels of `channels`."""
        mixed: list[Tensor] = []
        for each, across, between in zip(reversed(maps), reversed(self.across), reversed(self.between), strict=True):
            x = across(each)
            if mixed:
                x = torch.cat([x, F.interpolate(mixed[0].to(x.dtype), x.shape[2:], mode="bilinear")], 1)
            mixed.insert(0, between(x))
        return tuple(mixed)


def build_normed_block(in_channels: int, out_channels: int, down: bool) -> nn.Sequential:
    """A 4×4 convolution of stride 2, or a 3×3 one, with spectral norm; group norm; leaky ReLU."""
    convolution = nn.Conv2d(in_channels, out_channels, *((4, 2, 1) if down else (3, 1, 1)))
    groups = math.gcd(8, out_channels)
    return nn.Sequential(spectral_norm(convolution), nn.GroupNorm(groups, out_channels), nn.LeakyReLU(0.2))


def build_plain_block(in_channels: int, out_channels: int, down: bool) -> nn.Sequential:
    """A 4×4 convolution of stride 2, or a 3×3 one, and a leaky ReLU."""
    convolution = nn.Conv2d(in_channels, out_channels, *((4, 2, 1) if down else (3, 1, 1)))
    nn.init.kaiming_normal_(convolution.weight, 0.2)
    return nn.Sequential(convolution, nn.LeakyReLU(0.2))


class Head(nn.Module):
    """Features to a score for each position: a linear one, and an inner product with the text (Miyato & Koyama
    2018)."""

    def __init__(
        self, layers: nn.Module, channels: int, text_dim: int, projection_dim: int, *, deviation: bool, spectral: bool
    ):
        super().__init__()
        self.layers = layers
        self.deviation = MinibatchDeviation() if deviation else None
        self.plain = nn.Conv2d(channels + deviation, 1, 1)
        self.key = nn.Conv2d(channels, projection_dim, 1)
        self.text = nn.Linear(text_dim, projection_dim)
        if spectral:
            spectral_norm(self.plain)
            spectral_norm(self.key)

    @classmethod
    def for_map(
        cls, in_channels: int, side: int, channels: int, text_dim: int, projection_dim: int, deviation: bool
    ) -> Head:
        """On a map of a pretrained network, down to about 4×4."""
        count = count_halvings(side)
        widths = [in_channels] + [channels] * max(count, 1)
        layers = nn.Sequential(*(build_normed_block(a, b, count > 0) for a, b in itertools.pairwise(widths)))
        return cls(layers, channels, text_dim, projection_dim, deviation=deviation, spectral=True)

    @classmethod
    def on_pixels(cls, side: int, channels: int, text_dim: int, projection_dim: int) -> Head:
        """On the pixels, down to 8×8, without norms, under which its gradient is a thousandth of that of the other
        heads."""
        widths = [3] + [channels * 2**level for level in range(max(1, count_halvings(side) - 1))]
        layers = nn.Sequential(*(build_plain_block(a, b, True) for a, b in itertools.pairwise(widths)))
        return cls(layers, widths[-1], text_dim, projection_dim, deviation=False, spectral=False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Scores (N, 1, h, w) and keys (N, P, h, w)."""
        features = self.layers(x)
        return self.plain(features if self.deviation is None else self.deviation(features)), self.key(features)

    def judge(self, plain: Tensor, key: Tensor, text: Text) -> Tensor:
        """(N, h·w)"""
        words = self.text(text.embedding.to(key.dtype))
        product = torch.einsum("nphw,np->nhw", key, words) / math.sqrt(key.shape[1])
        return (plain[:, 0] + product).flatten(1).float()


class HeadInputs(NamedTuple):
    """What the heads see."""

    maps: tuple[Tensor, ...]  # mixed, fine to coarse
    means: Tensor  # (N, F) of the network's own maps over positions, each map's of unit root mean square
    images: Tensor | None  # (N, 3, R, R), for the head on pixels


class TrunkOutput(NamedTuple):
    """The output of the trunk."""

    scores: tuple[Tensor, ...]  # each head's (N, 1, h, w)
    keys: tuple[Tensor, ...]  # each head's (N, P, h, w)
    image_key: Tensor | None  # (N, 2P), to compare with texts


@register("discriminator", "projected")
class ProjectedDiscriminator(Discriminator):
    """Small heads on a pretrained network's maps, conditioned on text (Sauer et al. 2021, Projected GAN, section 3).

    The maps are mixed at random over channels and scales; nothing but the heads, one a scale, is trained, and their
    scores are averaged. The text enters every head by projection; group norm takes the place of batch norm, so that an
    image's score does not depend on the others'.

    Args:
        size: height and width that images are resized to for the network; None: 224, or their own where that is more.
        levels: how many of the network's maps, fine to coarse; None: all, up to four.
        mixing: channels of the finest map after mixing; of the coarser ones 1, 2 and 4 times as many; 64 in the paper.
        channels: width of the heads.
        projection_dim: size in which image and text are compared.
        pixels: width of the first layer of one more head, on the pixels themselves, for what the network does not see;
            0: none.
        minibatch_deviation: append the standard deviation over the batch in the head of the coarsest map.
        contrastive: also score each image against each text of the batch (`Verdict.similarity`), by the means of the
            network's own maps through two linear layers.
    """

    requires = (
        Requirement("pretrained network", of="features", why="looks through a pretrained network, and none is chosen"),
    )
    brings = {"objective": "hinge", "features": "efficientnet-lite0"}
    offers = (
        "logit scores",
        Offer("independent scores", when={"minibatch_deviation": False}),
        Offer("similarities", when={"contrastive": True}),
        "feature maps",
        "any image size",
        "use of features",
    )

    def __init__(
        self,
        *,
        features: Features,
        text_dim: int,
        resolution: Count,
        size: Count | None = None,
        levels: Count | None = None,
        mixing: Count = 64,
        channels: Count = 64,
        projection_dim: Count = 64,
        pixels: Natural = 0,
        minibatch_deviation: bool = True,
        contrastive: bool = True,
    ):
        super().__init__()
        self.features, self.size = features, size or max(224, resolution)
        if self.size < 32:
            raise ComponentError(f"discriminator.size = {self.size}: at least 32 px, for maps at a stride of 32.")
        known = min(len(features.channels), len(WIDTH_FACTORS))
        levels = levels or known
        if levels > known:
            raise ComponentError(
                f"discriminator.levels = {levels}: {features.name} has {known} maps; use "
                f"`discriminator.levels={known}`."
            )
        self.levels = levels
        sides = measure_map_sides(features, self.size)[:levels]
        pyramid = PyramidMixer(features.channels[:levels], mixing)
        self.mixing = FrozenNetwork(pyramid)
        self.heads = nn.ModuleList(
            Head.for_map(width, side, channels, text_dim, projection_dim, minibatch_deviation and level == levels - 1)
            for level, (width, side) in enumerate(zip(pyramid.channels, sides, strict=True))
        )
        self.on_pixels = pixels > 0
        if pixels:
            self.heads.append(Head.on_pixels(resolution, pixels, text_dim, projection_dim))
        self.image_key = (
            nn.Sequential(
                nn.Linear(sum(features.channels[:levels]), 4 * projection_dim),
                nn.LeakyReLU(0.2),
                nn.Linear(4 * projection_dim, 2 * projection_dim),
            )
            if contrastive
            else None
        )
        self.text_key = nn.Linear(text_dim, 2 * projection_dim) if contrastive else None

    def perceive(self, images: Tensor) -> HeadInputs:
        maps = self.features(resize_images(images, self.size))[: self.levels]
        return HeadInputs(self.mixing(maps), compute_mean_vectors(maps), images if self.on_pixels else None)

    def trunk(self, perceived: HeadInputs) -> TrunkOutput:
        maps = list(perceived.maps)
        if perceived.images is not None:
            maps.append(perceived.images)
        scores, keys = zip(*(head(each) for head, each in zip(self.heads, maps, strict=True)), strict=True)
        compared = self.image_key is not None and self.training
        return TrunkOutput(scores, keys, self.image_key(perceived.means) if self.image_key and compared else None)

    def judge(self, features: TrunkOutput, text: Text) -> Verdict:
        match = tuple(
            head.judge(score, key, text)  # type: ignore[operator]
            for head, score, key in zip(self.heads, features.scores, features.keys, strict=True)
        )
        return Verdict(match, None, self._similarity(features.image_key, text))

    def maps(self, perceived: HeadInputs) -> tuple[Tensor, ...]:
        return perceived.maps

    def _similarity(self, image_key: Tensor | None, text: Text) -> Tensor | None:
        if image_key is None or self.text_key is None:
            return None
        return compute_similarities(image_key, self.text_key, text)


def measure_map_sides(features: Features, size: int) -> list[int]:
    """Height of each map of an image of `size` px. ComponentError where the network takes no such images."""
    try:
        with torch.no_grad():
            return [each.shape[2] for each in features(torch.zeros(1, 3, size, size, device="cpu"))]
    except Exception as error:  # a network may raise anything
        reason = (str(error) or type(error).__name__).splitlines()[0].rstrip(".")
        raise ComponentError(
            f"discriminator.size = {size}: {features.name} does not take images of this size ({reason}); most "
            "networks were trained with `discriminator.size=224`."
        ) from error


def count_halvings(side: int) -> int:
    """How often a map of this side can be halved without falling below 4×4."""
    return max(0, int(math.log2(side / HEAD_SIZE))) if side > HEAD_SIZE else 0

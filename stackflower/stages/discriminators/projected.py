"""Projected GAN's discriminator (Sauer et al. 2021), conditioned on text."""

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
from stackflower.errors import ComponentError, summarise_error
from stackflower.features.base import Features, compute_mean_vectors, resize_images
from stackflower.options import Count, Natural
from stackflower.registry import register
from stackflower.stages.base import Discriminator, Text, Verdict
from stackflower.stages.contrast import compute_similarities
from stackflower.stages.frozen import FrozenNetwork
from stackflower.stages.layers import MinibatchDeviation

WIDTH_FACTORS = (1, 1, 2, 4)  # channels of the mixed maps, fine to coarse, relative to the finest map
HEAD_SIZE = 4  # smallest height and width to which heads reduce a map


class PyramidMixer(nn.Module):
    """Random, untrained mixing of feature maps over channels and scales (section 3.2).

    1×1 convolutions mix channels; then 3×3 convolutions mix scales from coarse to fine, taking the upsampled coarser
    map as further channels (the release adds it instead, and doubles every map). Mixing spreads the information of
    single channels over all channels, so the heads attend to all of it. The weights are drawn from a fixed seed.

    Args:
        channels: channels of the maps, fine to coarse.
        finest: channels of the finest mixed map.
    """

    def __init__(self, channels: Sequence[int], finest: int):
        super().__init__()
        self.channels = [finest * times for times in WIDTH_FACTORS[: len(channels)]]
        across = [nn.Conv2d(width, mixed, 1) for width, mixed in zip(channels, self.channels, strict=True)]
        coarser = [*self.channels[1:], 0]
        between = [nn.Conv2d(n + above, n, 3, padding=1) for n, above in zip(self.channels, coarser, strict=True)]
        self.across, self.between = nn.ModuleList(across), nn.ModuleList(between)
        generator = torch.Generator().manual_seed(0)
        for layer in (*across, *between):
            # unit gain, because no nonlinearity separates the layers
            scale = (layer.weight[0].numel()) ** -0.5
            random = torch.randn(layer.weight.shape, generator=generator, device="cpu") * scale
            layer.weight = nn.Parameter(random.to(layer.weight.device))
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Mix maps `(N, C, H, W)`, fine to coarse, to the widths in `channels`."""
        mixed: list[Tensor] = []
        for x, across, between in zip(reversed(maps), reversed(self.across), reversed(self.between), strict=True):
            x = across(x)
            if mixed:
                x = torch.cat([x, F.interpolate(mixed[0].to(x.dtype), x.shape[2:], mode="bilinear")], 1)
            mixed.insert(0, between(x))
        return tuple(mixed)


def build_normed_block(in_channels: int, out_channels: int, down: bool) -> nn.Sequential:
    """Build a 4×4 convolution of stride 2, or a 3×3 one, with spectral and group normalisation and a leaky ReLU."""
    convolution = nn.Conv2d(in_channels, out_channels, *((4, 2, 1) if down else (3, 1, 1)))
    groups = math.gcd(8, out_channels)
    return nn.Sequential(spectral_norm(convolution), nn.GroupNorm(groups, out_channels), nn.LeakyReLU(0.2))


def build_plain_block(in_channels: int, out_channels: int, down: bool) -> nn.Sequential:
    """Build a 4×4 convolution of stride 2, or a 3×3 one, and a leaky ReLU."""
    convolution = nn.Conv2d(in_channels, out_channels, *((4, 2, 1) if down else (3, 1, 1)))
    nn.init.kaiming_normal_(convolution.weight, 0.2)
    return nn.Sequential(convolution, nn.LeakyReLU(0.2))


class Head(nn.Module):
    """Projection head, which scores every position (Miyato & Koyama 2018).

    The score is linear in the features plus their inner product with the text.

    Args:
        layers: convolutions from the input of the head to its features.
        channels: channels of the features.
        text_dim: size T of the text embedding.
        projection_dim: size P of the space in which features and text are compared.
        deviation: append the minibatch standard deviation to the features.
        spectral: apply spectral normalisation to the scoring layers.
    """

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
        """Build the head for a mixed map of height and width `side`, which it reduces to about 4×4."""
        count = count_halvings(side)
        widths = [in_channels] + [channels] * max(count, 1)
        layers = nn.Sequential(*(build_normed_block(a, b, count > 0) for a, b in itertools.pairwise(widths)))
        return cls(layers, channels, text_dim, projection_dim, deviation=deviation, spectral=True)

    @classmethod
    def for_pixels(cls, side: int, channels: int, text_dim: int, projection_dim: int) -> Head:
        """Build the head for the pixels, which it reduces to 8×8.

        It has no normalisation, which would shrink its gradient to a thousandth of that of the other heads.
        """
        widths = [3] + [channels * 2**level for level in range(max(1, count_halvings(side) - 1))]
        layers = nn.Sequential(*(build_plain_block(a, b, True) for a, b in itertools.pairwise(widths)))
        return cls(layers, widths[-1], text_dim, projection_dim, deviation=False, spectral=False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return linear scores `(N, 1, h, w)` and keys `(N, P, h, w)`."""
        features = self.layers(x)
        return self.plain(features if self.deviation is None else self.deviation(features)), self.key(features)

    def score(self, linear: Tensor, key: Tensor, text: Text) -> Tensor:
        """Add the inner product of keys and text to the linear scores; return `(N, h·w)`."""
        query = self.text(text.embedding.to(key.dtype))
        product = torch.einsum("nphw,np->nhw", key, query) / math.sqrt(key.shape[1])
        return (linear[:, 0] + product).flatten(1).float()


class HeadInputs(NamedTuple):
    """Input of the heads."""

    maps: tuple[Tensor, ...]  # mixed maps, fine to coarse
    means: Tensor  # (N, F), means of the network's maps over positions (see `compute_mean_vectors`)
    images: Tensor | None  # (N, 3, R, R), for the head on the pixels


class TrunkOutput(NamedTuple):
    """Output of the trunk."""

    scores: tuple[Tensor, ...]  # linear scores (N, 1, h, w) of each head
    keys: tuple[Tensor, ...]  # keys (N, P, h, w) of each head
    image_key: Tensor | None  # (N, 2P), compared with texts


@register("discriminator", "projected")
class ProjectedDiscriminator(Discriminator):
    """Projected GAN's discriminator (Sauer et al. 2021, section 3): small heads on the maps of a pretrained network.

    The maps are mixed at random over channels and scales. Only the heads are trained, one per scale; losses are
    averaged over heads. Every head is conditioned on the text by projection. Group normalisation replaces batch
    normalisation, so an image's score does not depend on other images.

    Args:
        size: height and width to which images are resized for the network; None: 224, or the resolution of the images
            if it is larger.
        levels: number of the network's maps to use, from the finest; None: all, at most four.
        mixing: channels of the finest mixed map; the coarser ones have 1, 2 and 4 times as many; 64 in the paper.
        channels: width of the heads.
        projection_dim: size of the space in which image and text are compared.
        pixels: width of the first layer of an additional head on the pixels, for details that the network does not
            see; 0: no such head.
        minibatch_deviation: append the standard deviation over the batch to the features of the coarsest map's head.
        contrastive: also compare each image with each text of the batch (`Verdict.similarity`). The image is
            represented by the means of the network's maps, followed by two linear layers.
    """

    requires = (Requirement("pretrained network", of="features", why="needs a pretrained network, and none is chosen"),)
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
            raise ComponentError(
                f"`discriminator.size` is {self.size}, but must be at least 32, for maps at a stride of 32."
            )
        map_count = min(len(features.channels), len(WIDTH_FACTORS))
        levels = levels or map_count
        if levels > map_count:
            raise ComponentError(
                f"`discriminator.levels` is {levels}, but {features.name} has only {map_count} maps to use; set "
                f"`discriminator.levels={map_count}`."
            )
        self.levels = levels
        sides = measure_map_sides(features, self.size)[:levels]
        pyramid = PyramidMixer(features.channels[:levels], mixing)
        self.mixing = FrozenNetwork(pyramid)
        self.heads = nn.ModuleList(
            Head.for_map(width, side, channels, text_dim, projection_dim, minibatch_deviation and level == levels - 1)
            for level, (width, side) in enumerate(zip(pyramid.channels, sides, strict=True))
        )
        self.uses_pixels = pixels > 0
        if pixels:
            self.heads.append(Head.for_pixels(resolution, pixels, text_dim, projection_dim))
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
        return HeadInputs(self.mixing(maps), compute_mean_vectors(maps), images if self.uses_pixels else None)

    def trunk(self, perceived: HeadInputs) -> TrunkOutput:
        inputs = list(perceived.maps)
        if perceived.images is not None:
            inputs.append(perceived.images)
        scores, keys = zip(*(head(x) for head, x in zip(self.heads, inputs, strict=True)), strict=True)
        compares = self.image_key is not None and self.training
        return TrunkOutput(scores, keys, self.image_key(perceived.means) if self.image_key and compares else None)

    def judge(self, features: TrunkOutput, text: Text) -> Verdict:
        match = tuple(
            head.score(score, key, text)  # type: ignore[operator]
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
    """Return the height of each map of an image of `size` px.

    Raises:
        ComponentError: the network does not accept images of this size.
    """
    try:
        with torch.no_grad():
            return [feature_map.shape[2] for feature_map in features(torch.zeros(1, 3, size, size, device="cpu"))]
    except Exception as error:  # a network may raise anything
        reason = summarise_error(error).rstrip(".")
        raise ComponentError(
            f"With `discriminator.size={size}`, {features.name} fails ({reason}); most networks were trained with "
            "`discriminator.size=224`."
        ) from error


def count_halvings(side: int) -> int:
    """Return how often a map of height `side` can be halved without falling below 4×4."""
    return max(0, int(math.log2(side / HEAD_SIZE))) if side > HEAD_SIZE else 0

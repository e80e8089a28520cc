"""Backbones of the domain classifier: networks from images to features."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock
from torchvision.ops import Conv2dNormActivation

from stackflower.features.base import Features, compute_mean_vectors, resize_images
from stackflower.features.loading import load_features

Network = Literal["plain", "resnet18", "features"]
DEFAULT_WIDTHS: dict[str, int] = {"plain": 32, "resnet18": 40, "features": 512}
FEATURES_INPUT_SIZE = 160  # input size of pretrained networks, in pixels


class Backbone(nn.Module):
    """Base class of networks from images `(N, 3, R, R)` in `[-1, 1]` to features `(N, F)`, in two steps.

    `precompute` is the step without trained parameters, which training can apply once per image; the forward pass is
    the other step. `backbone(backbone.precompute(images))` returns the features.
    """

    feature_dim: int  # F
    family: str = ""  # `Features.family` of the pretrained network, if any
    precomputes: ClassVar[bool] = False  # whether `precompute` changes its inputs

    def precompute(self, images: Tensor) -> Tensor:
        """Apply the step without trained parameters; the default does nothing."""
        return images

    def pretrained_parameters(self) -> Iterable[nn.Parameter]:
        """Return the parameters with pretrained weights, which get a lower learning rate."""
        return ()


class PlainBackbone(Backbone, nn.Sequential):
    """Four strided convolutions, each followed by an unstrided one: fast, and sufficient for synthetic images.

    Args:
        width: channels of the first layers.
    """

    def __init__(self, width: int):
        layers: list[nn.Module] = []
        channels = 3
        for out_channels in (width, 2 * width, 4 * width, 8 * width):
            layers += Conv2dNormActivation(channels, out_channels, kernel_size=4, stride=2)
            layers += Conv2dNormActivation(out_channels, out_channels)
            channels = out_channels
        super().__init__(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.feature_dim = channels


class ResNet18Backbone(Backbone, nn.Sequential):
    """The blocks of ResNet-18 (He et al. 2016) with a stem for small images.

    The stem has one strided 3×3 convolution at up to 64 px, and one more for each doubling of the resolution.
    torchvision's `ResNet` has at least 64 channels, and its stem is designed for 224 px.

    Args:
        width: channels of the first blocks.
        resolution: R.
    """

    def __init__(self, width: int, resolution: int):
        channels, layers = 3, list[nn.Module]()
        for halving in reversed(range(max(1, math.ceil(math.log2(resolution / 64)) + 1))):
            out_channels = max(1, width // 2**halving)
            layers += Conv2dNormActivation(channels, out_channels, stride=2)
            channels = out_channels
        layers.append(nn.MaxPool2d(3, 2, 1))
        for level in range(4):
            out_channels = width * 2**level
            for stride in (2 if level else 1, 1):
                shortcut = None
                if stride > 1:
                    shortcut = Conv2dNormActivation(channels, out_channels, 1, stride, activation_layer=None)
                layers.append(BasicBlock(channels, out_channels, stride, shortcut))
                channels = out_channels
        super().__init__(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.feature_dim = channels


class _FeaturesBackbone(Backbone):
    """Base class of backbones with a pretrained network: a layer on the standardised means of its feature maps.

    Args:
        features: pretrained network.
        width: F.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, features: Features, width: int):
        super().__init__()
        self.features, self.feature_dim, self.family = features, width, features.family
        input_dim = sum(features.channels)
        self.register_buffer("mean", torch.zeros(input_dim))
        self.register_buffer("deviation", torch.ones(input_dim))
        self.layers = nn.Sequential(
            nn.Dropout(0.3), nn.Linear(input_dim, width), nn.BatchNorm1d(width), nn.ReLU(inplace=True), nn.Dropout(0.5)
        )

    def map_vectors(self, vectors: Tensor) -> Tensor:
        """Map vectors `(N, P)` of the pretrained network to features `(N, F)`."""
        features: Tensor = self.layers((vectors - self.mean) / self.deviation)
        return features


class FrozenFeatures(_FeaturesBackbone):
    """A frozen pretrained network and a trained layer. The network is not part of the state."""

    precomputes = True

    def standardise(self, vectors: Tensor) -> None:
        """Set mean and deviation to those of vectors `(N, P)` of training images."""
        self.mean.copy_(vectors.mean(0))
        self.deviation.copy_(vectors.std(0).clamp_min(1e-6))

    def precompute(self, images: Tensor) -> Tensor:
        """Compute the vectors `(N, P)` of the pretrained network for images `(N, 3, R, R)`."""
        with torch.no_grad():
            return compute_mean_vectors(self.features(resize_images(images, FEATURES_INPUT_SIZE)))

    def forward(self, vectors: Tensor) -> Tensor:
        return self.map_vectors(vectors)


class FineTunedFeatures(_FeaturesBackbone):
    """A copy of a pretrained network and a layer, both trained."""

    def __init__(self, features: Features, width: int):
        super().__init__(features, width)
        self.network = copy.deepcopy(features.get_network(torch.device("cpu"), torch.float32)).requires_grad_(True)

    def pretrained_parameters(self) -> Iterable[nn.Parameter]:
        return self.network.parameters()

    def forward(self, images: Tensor) -> Tensor:
        maps = self.network(self.features.normalise(resize_images(images, FEATURES_INPUT_SIZE)))
        return self.map_vectors(compute_mean_vectors([feature_map.float() for feature_map in maps]))


def create_backbone(
    network: Network,
    *,
    width: int,
    resolution: int,
    features: Mapping[str, Any] | None = None,
    fine_tuned: bool = False,
) -> Backbone:
    """Create a randomly initialised backbone.

    Args:
        network: "plain", "resnet18", or "features" for a layer on a pretrained network.
        width: channels of the first layers, or features of the layer on a pretrained network.
        resolution: height and width of the images.
        features: name and options of the pretrained network, for the network "features".
        fine_tuned: whether to train the pretrained network too.
    """
    if network == "plain":
        return PlainBackbone(width)
    if network == "resnet18":
        return ResNet18Backbone(width, resolution)
    pretrained = load_features(features or {})
    return (FineTunedFeatures if fine_tuned else FrozenFeatures)(pretrained, width)

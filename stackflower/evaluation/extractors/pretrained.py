"""A pretrained network of the kind `features` as an extractor."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from stackflower import registry
from stackflower.evaluation.extractors.base import Extracted, Extractor
from stackflower.features.base import Features, resize_images
from stackflower.options import Count
from stackflower.registry import register
from stackflower.utils.pixels import scale_pixels


@register("extractor", "features")
class PretrainedFeatures(Extractor):
    """Coarsest map of a pretrained network of the kind `features`, averaged over positions.

    It has no classes, and hence no Inception Score.

    Args:
        network: name of the features, such as "timm", "torchvision" or "huggingface".
        model: model of that library.
        weights: local file of weights; None: those of the library.
        size: height and width that images are resized to.
    """

    def __init__(
        self,
        *,
        network: str = "efficientnet-lite0",
        model: str | None = None,
        weights: str | None = None,
        size: Count = 224,
    ):
        choices = {"model": model, "weights": weights}
        options = {name: value for name, value in choices.items() if value is not None}
        self.features: Features = registry.create("features", network, **options)
        self.family, self.size = self.features.family, size

    def network(self) -> nn.Module:
        return self.features.get_network(self.device, torch.float32)

    def to(self, device: torch.device | str) -> None:
        self.device = torch.device(device)  # `Features` run on the device of their images

    def describe(self) -> dict[str, object]:
        return {
            "extractor": f"features ({self.features.name})",
            "weights_sha256": self.features.checksum,
            "classes": 0,
            "resolution": self.size,
            "resize": "bilinear, with antialiasing where images shrink",
        }

    def extract(self, images: Tensor) -> Extracted:
        coarsest = self.features(resize_images(scale_pixels(images), self.size))[-1]
        features = coarsest.float().mean((2, 3))
        return Extracted.of(features)

"""Any classifier of torchvision as features."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from stackflower.errors import DataError
from stackflower.features.base import IMAGENET, Features
from stackflower.features.loading import loading, read_weights
from stackflower.options import Count
from stackflower.registry import register


class _Pyramid(nn.Module):
    """A network that gives a mapping of maps, as a list."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> list[Tensor]:
        return list(self.network(images).values())


@register("features", "torchvision")
class TorchvisionFeatures(Features):
    """A classifier of torchvision by name: the last map at each stride from 4 to 32.

    Args:
        model: its name, such as resnet50 or vgg16.
        weights: local file of weights; None: torchvision's own, from its cache or a download.
        size: height and width of images to measure the maps with.
    """

    def __init__(self, *, model: str, weights: str | None = None, size: Count = 224):
        from torchvision import models
        from torchvision.models.feature_extraction import create_feature_extractor

        classifiers = models.list_models(module=models)
        if model not in classifiers:
            near = [name for name in classifiers if model[:4] in name][:6] or classifiers[:6]
            raise DataError(f"torchvision has no model {model!r}; some that it has: {', '.join(near)}.")
        self.family = "".join(letter for letter in model.split("_")[0] if letter.isalpha())
        with loading(f"torchvision's {model}", "Name a local file: --set features.weights=FILE."):
            network = models.get_model(model, weights="DEFAULT" if weights is None else None)
            if weights is not None:
                network.load_state_dict(read_weights(weights))
            network.eval()
            nodes = _last_maps(network, size)
            if not nodes:
                raise ValueError("it gives no maps at strides 4 to 32.")
            extractor = create_feature_extractor(network, nodes).eval()
            super().__init__(_Pyramid(extractor), *IMAGENET, f"torchvision {model}", size)


def _last_maps(network: nn.Module, size: int) -> list[str]:
    """The last operations, in the order of execution, whose output is a map at stride 4, 8, 16 and 32."""
    from torchvision.models.feature_extraction import create_feature_extractor, get_graph_node_names

    operations = get_graph_node_names(network)[1]
    every = create_feature_extractor(network, operations).eval()
    with torch.no_grad():
        outputs = every(torch.zeros(1, 3, size, size))
    last: dict[int, str] = {}
    for name, output in outputs.items():
        if isinstance(output, Tensor) and output.ndim == 4 and output.shape[1] > 3 and output.shape[-1] > 1:
            last[round(size / output.shape[-1])] = name
    return [last[stride] for stride in (4, 8, 16, 32) if stride in last]

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
    """A network that gives a mapping of maps, as a list of maps with their channels first."""

    def __init__(self, network: nn.Module, nodes: dict[str, bool]):
        super().__init__()
        self.network, self.channels_last = network, list(nodes.values())

    def forward(self, images: Tensor) -> list[Tensor]:
        maps = self.network(images).values()
        return [x.permute(0, 3, 1, 2) if last else x for x, last in zip(maps, self.channels_last, strict=True)]


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
        with loading(f"torchvision's {model}", "Name a local file: `features.weights=FILE`."):
            network = models.get_model(model, weights="DEFAULT" if weights is None else None)
            if weights is not None:
                network.load_state_dict(read_weights(weights))
            network.eval()
            nodes = _last_maps(network, size)
            if not nodes:
                raise ValueError("it gives no maps at strides 4 to 32.")
            extractor = create_feature_extractor(network, list(nodes)).eval()
            super().__init__(_Pyramid(extractor, nodes), *IMAGENET, f"torchvision {model}", size)


def _last_maps(network: nn.Module, size: int) -> dict[str, bool]:
    """The last operations, in the order of execution, whose output is a map at stride 4, 8, 16 and 32, and whether its channels are last."""
    from torchvision.models.feature_extraction import create_feature_extractor, get_graph_node_names

    operations = get_graph_node_names(network)[1]
    every = create_feature_extractor(network, operations).eval()
    with torch.no_grad():
        outputs = every(torch.zeros(1, 3, size, size))
    last: dict[int, tuple[str, bool]] = {}
    for name, output in outputs.items():
        if not isinstance(output, Tensor) or output.ndim != 4:
            continue
        channels_last = output.shape[1] == output.shape[2] != output.shape[3]
        channels, side = (output.shape[3], output.shape[2]) if channels_last else (output.shape[1], output.shape[3])
        if channels > 3 and side > 1:
            last[round(size / side)] = name, channels_last
    return dict(last[stride] for stride in (4, 8, 16, 32) if stride in last)

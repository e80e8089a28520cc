"""Any torchvision classifier as features."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from stackflower.errors import DataError
from stackflower.features.base import Features
from stackflower.features.loading import read_weights, report_loading_errors
from stackflower.options import Count
from stackflower.registry import register

MAP_STRIDES = (4, 8, 16, 32)  # strides of the maps that are used


class _Pyramid(nn.Module):
    """Wrapper that returns the maps of a feature extractor as a list of `(N, C, H, W)`.

    Args:
        extractor: maps images to a mapping of maps.
        channels_last: for each map, whether the extractor returns it as `(N, H, W, C)`.
    """

    def __init__(self, extractor: nn.Module, channels_last: list[bool]):
        super().__init__()
        self.network, self.channels_last = extractor, channels_last

    def forward(self, images: Tensor) -> list[Tensor]:
        maps = self.network(images).values()
        return [x.permute(0, 3, 1, 2) if last else x for x, last in zip(maps, self.channels_last, strict=True)]


@register("features", "torchvision")
class TorchvisionFeatures(Features):
    """Any torchvision classifier: the last map at each stride from 4 to 32.

    Args:
        model: name of the network, such as resnet50 or vgg16.
        weights: local file with the weights; None: torchvision's, from its cache or a download.
        size: height and width of the images with which the maps are measured.
    """

    def __init__(self, *, model: str, weights: str | None = None, size: Count = 224):
        from torchvision import models
        from torchvision.models.feature_extraction import create_feature_extractor

        classifiers = models.list_models(module=models)
        if model not in classifiers:
            similar = [name for name in classifiers if model[:4] in name][:6] or classifiers[:6]
            raise DataError(f"torchvision has no model {model!r}; available models include {', '.join(similar)}.")
        self.family = "".join(letter for letter in model.split("_")[0] if letter.isalpha())
        with report_loading_errors(f"torchvision's {model}", "Pass a local file with `features.weights=FILE`."):
            network = models.get_model(model, weights="DEFAULT" if weights is None else None)
            if weights is not None:
                network.load_state_dict(read_weights(weights))
            channels_last = find_last_maps(network.eval(), size)
            if not channels_last:
                raise ValueError("it has no maps at strides 4 to 32.")
            extractor = create_feature_extractor(network, list(channels_last)).eval()
            preprocessing = models.get_model_weights(model).DEFAULT.transforms()
            pyramid = _Pyramid(extractor, list(channels_last.values()))
            super().__init__(pyramid, preprocessing.mean, preprocessing.std, f"torchvision {model}", size)


def find_last_maps(network: nn.Module, size: int) -> dict[str, bool]:
    """Find the last node in the order of execution whose output is a map, for each of `MAP_STRIDES`.

    Args:
        network: classifier in evaluation mode.
        size: height and width of the images with which the maps are measured.

    Returns:
        For each node's name, fine to coarse, whether the channels of its map come last.
    """
    from torchvision.models.feature_extraction import create_feature_extractor, get_graph_node_names

    nodes = get_graph_node_names(network)[1]
    with torch.no_grad():
        outputs = create_feature_extractor(network, nodes).eval()(torch.zeros(1, 3, size, size))
    last_nodes: dict[int, tuple[str, bool]] = {}
    for node, output in outputs.items():
        if not isinstance(output, Tensor) or output.ndim != 4:
            continue
        channels_last = output.shape[1] == output.shape[2] != output.shape[3]
        channels, side = (output.shape[3], output.shape[2]) if channels_last else (output.shape[1], output.shape[3])
        if channels > 3 and side > 1:
            last_nodes[round(size / side)] = node, channels_last
    return dict(last_nodes[stride] for stride in MAP_STRIDES if stride in last_nodes)

"""Any timm network as features."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from stackflower.errors import DataError, MissingDependency
from stackflower.features.base import Features
from stackflower.features.loading import read_weights, report_loading_errors
from stackflower.options import Count
from stackflower.registry import register

STRIDE_RANGE = (4, 32)  # smallest and largest stride of the maps that are used


class _ChannelsFirst(nn.Module):
    """Wrapper that permutes a network's maps from `(N, H, W, C)` to `(N, C, H, W)`."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> list[Tensor]:
        return [x.permute(0, 3, 1, 2) for x in self.network(images)]


def _find_original_name(name: str, state: dict[str, Tensor]) -> str:
    """Return the name that a weight of the feature extractor has in the state dict of the whole network."""
    first, dot, rest = name.partition(".")
    candidates = (name, name.removeprefix("model."), f"{first.replace('_', '.')}{dot}{rest}")
    return next((candidate for candidate in candidates if candidate in state), name)


@register("features", "timm")
class TimmFeatures(Features):
    """Any timm network: the last map at each stride from 4 to 32, or, for transformers, the maps that timm returns.

    Args:
        model: name of the network, such as resnet50 or convnext_tiny.
        weights: local file with the weights; None: timm's, from its cache or the Hugging Face hub.
        size: height and width of the images with which the maps are measured; needed for networks of a fixed input
            size only. None: 224.
    """

    def __init__(self, *, model: str, weights: str | None = None, size: Count | None = None):
        try:
            import timm
        except ImportError:
            raise MissingDependency("timm", "features", f"timm's {model}") from None
        if not timm.is_model(model):
            near = timm.list_models(f"*{model}*")[:5] or timm.list_models("*resnet*")[:5]
            raise DataError(f"timm has no model {model!r}; available models include {', '.join(near)}.")
        first = "".join(letter for letter in model.removeprefix("tf_").split("_")[0] if letter.isalpha())
        self.family = "efficientnet" if "efficientnet" in model else first
        with report_loading_errors(f"timm's {model}", "Pass a local file with `features.weights=FILE`."):
            info: Any = timm.create_model(model, pretrained=False, features_only=True).feature_info
            low, high = STRIDE_RANGE
            indices = [i for i, stride in enumerate(info.reduction()) if low <= stride <= high]
            # allow other image sizes than in training
            options: dict[str, Any] = {"dynamic_img_size": True} if "vit" in model else {}
            network = timm.create_model(
                model, pretrained=weights is None, features_only=True, out_indices=indices, **options
            )
            if weights is not None:
                state = read_weights(weights)
                # the feature extractor wraps transformers, and flattens the module names of other networks
                names = {name: _find_original_name(name, state) for name in network.state_dict()}
                missing = [original for original in names.values() if original not in state]
                if missing:
                    raise ValueError(f"{weights} lacks {', '.join(missing[:3])} and {max(len(missing) - 3, 0)} more.")
                network.load_state_dict({name: state[original] for name, original in names.items()})
            if str(getattr(network, "output_fmt", "")).endswith("NHWC"):
                network = _ChannelsFirst(network)
            settings = timm.get_pretrained_cfg(model)
            mean, std = (settings.mean, settings.std) if settings is not None else ((0.5,) * 3, (0.5,) * 3)
            super().__init__(network, mean, std, f"timm {model}", size or 224)

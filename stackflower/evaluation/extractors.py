"""Feature extractors: the named classifiers that scores are computed with."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stackflower.errors import DataError
from stackflower.evaluation.classifier import DomainClassifier, load_classifier
from stackflower.registry import register

INCEPTION_FILE = "inception_v3_google-0cc3c7bd.pth"


class Extracted(NamedTuple):
    """What an extractor says of images."""

    features: Tensor  # (N, F)
    logits: Tensor  # (N, K)
    heads: Mapping[str, Tensor]  # attribute → logits (N, values); empty for a plain classifier


class Extractor(ABC):
    """Images to features and logits by one fixed network."""

    attributes: Mapping[str, tuple[str, ...]] = {}  # attribute → its values, in the order of the logits

    @abstractmethod
    def describe(self) -> dict[str, object]:
        """Name, checksum of the weights, how images are resized: part of every score's protocol."""

    @abstractmethod
    def extract(self, images: Tensor) -> Extracted:
        """uint8 (n, 3, H, W) to features and logits."""

    @torch.inference_mode()
    def __call__(self, images: Tensor, batch_size: int = 200) -> Extracted:
        """The same for any number of images, in batches."""
        parts = [self.extract(part) for part in images.split(batch_size)]
        heads = {name: torch.cat([part.heads[name] for part in parts]) for name in parts[0].heads}
        return Extracted(torch.cat([p.features for p in parts]), torch.cat([p.logits for p in parts]), heads)


def checksum(path: Path) -> str:
    """First 16 hexadecimal digits of a file's SHA-256."""
    digest = hashlib.sha256()
    with path.open("rb") as handle:
        for chunk in iter(lambda: handle.read(1 << 20), b""):
            digest.update(chunk)
    return digest.hexdigest()[:16]


@register("extractor", "domain")
class DomainExtractor(Extractor):
    """A classifier trained on the data's own labels and attributes by `stackflower train-classifier`.

    Args:
        weights: the file it wrote.
    """

    def __init__(self, *, weights: str):
        self.path = Path(weights).expanduser()
        self.model: DomainClassifier = load_classifier(self.path)
        self.attributes = {name: values for name, values in self.model.heads.items() if name != "label"}

    def describe(self) -> dict[str, object]:
        model = self.model
        return {
            "extractor": "domain",
            "weights_sha256": checksum(self.path),
            "classes": len(model.heads["label"]),
            "resolution": model.resolution,
            "resize": "antialiased bilinear",
            "trained_on": model.trained_on,
            "held_out_accuracy": model.accuracy,
        }

    def extract(self, images: Tensor) -> Extracted:
        values = images.float() / 127.5 - 1
        if values.shape[-1] != self.model.resolution:
            size = (self.model.resolution,) * 2
            values = F.interpolate(values, size=size, mode="bilinear", antialias=True, align_corners=False)
        features, heads = self.model(values.contiguous(memory_format=torch.channels_last))
        return Extracted(features, heads["label"], {name: value for name, value in heads.items() if name != "label"})


@register("extractor", "inception-v3")
class InceptionExtractor(Extractor):
    """Inception-v3 with torchvision's ImageNet weights: 1000 classes, 2048 features, on 299×299 pixels.

    These are not the 2015 TensorFlow weights of published scores; numbers from the two don't compare.

    Args:
        weights: path of the weights file; without it torchvision's cache or download.
    """

    def __init__(self, *, weights: str | None = None):
        from torchvision.models import Inception_V3_Weights, inception_v3

        known = Path(torch.hub.get_dir()) / "checkpoints" / INCEPTION_FILE
        self.path = Path(weights).expanduser() if weights else known
        try:
            if weights is None and not known.exists():
                Inception_V3_Weights.IMAGENET1K_V1.get_state_dict(progress=True, check_hash=True)
            state = torch.load(self.path, map_location="cpu", weights_only=True)
            model = inception_v3(weights=None, init_weights=False, aux_logits=True, transform_input=True)
            model.load_state_dict(state)
        except Exception as error:  # a network, a file or its contents: all mean that these weights can't be had
            raise DataError(
                f"Inception-v3's weights can't be had ({type(error).__name__}: {str(error).splitlines()[0][:200]}). Fetch "
                f"{INCEPTION_FILE} from torchvision's model zoo and name it with --weights FILE, or score with a "
                "classifier of your own data: --extractor domain."
            ) from error
        self.model = model.eval()
        self.head, self.model.fc = self.model.fc, nn.Identity()

    def describe(self) -> dict[str, object]:
        return {
            "extractor": "inception-v3 (torchvision, ImageNet)",
            "weights_sha256": checksum(self.path),
            "classes": 1000,
            "resolution": 299,
            "resize": "antialiased bilinear",
        }

    def extract(self, images: Tensor) -> Extracted:
        values = F.interpolate(
            images.float() / 255, size=(299, 299), mode="bilinear", antialias=True, align_corners=False
        )
        mean, std = values.new_tensor([0.485, 0.456, 0.406]), values.new_tensor([0.229, 0.224, 0.225])
        features = self.model((values - mean[:, None, None]) / std[:, None, None])
        return Extracted(features, self.head(features), {})

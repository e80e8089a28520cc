"""The domain classifier as an extractor."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stackflower import registry
from stackflower.errors import DataError
from stackflower.evaluation.classifier.files import load_classifier
from stackflower.evaluation.classifier.network import DomainClassifier
from stackflower.evaluation.extractors.base import Extracted, Extractor, compute_checksum
from stackflower.registry import register
from stackflower.text.base import TextEncoder
from stackflower.utils.pixels import scale_pixels


@register("extractor", "domain")
class DomainExtractor(Extractor):
    """A classifier trained on the data's own labels and attributes by `stackflower train-classifier`.

    Args:
        weights: file written by that command.
    """

    def __init__(self, *, weights: str):
        self.path = Path(weights).expanduser()
        self.model: DomainClassifier = load_classifier(self.path)
        self.encoder: TextEncoder | None = None  # text encoder, created when captions are first embedded
        self.family = self.model.body.family
        self.attributes = {name: values for name, values in self.model.heads.items() if name != "label"}

    def network(self) -> nn.Module:
        return self.model

    def describe(self) -> dict[str, object]:
        model = self.model
        return {
            "extractor": "domain",
            "weights_sha256": compute_checksum(self.path),
            "classes": len(model.heads.get("label", ())),
            "resolution": model.resolution,
            "resize": "antialiased bilinear",
            "trained_on": model.trained_on,
            "held_out": model.held_out,
        }

    def extract(self, images: Tensor) -> Extracted:
        values = scale_pixels(images)
        if values.shape[-1] != self.model.resolution:
            # `resize_images` rounds differently where images are enlarged, which would change published scores
            size = (self.model.resolution,) * 2
            values = F.interpolate(values, size=size, mode="bilinear", antialias=True, align_corners=False)
        features, heads, vectors = self.model(values.contiguous(memory_format=torch.channels_last))
        logits = heads.pop("label", features.new_zeros(len(features), 0))
        return Extracted(features, logits, heads, vectors)

    def embed(self, captions: Sequence[str]) -> Tensor | None:
        if self.model.captions is None:
            return None
        if self.encoder is None:
            part = dict(self.model.text or {})
            encoder: TextEncoder = registry.create("text", part.pop("name"), **part)
            if encoder.dim != self.model.text_dim:
                raise DataError(
                    f"{self.path} expects embeddings of size {self.model.text_dim}, but its text encoder returns size "
                    f"{encoder.dim}: the file is damaged or the encoder has changed. Train it again."
                )
            encoder.to(self.device)
            self.encoder = encoder
        return self.model.captions.project_captions(self.encoder(list(captions)).to(self.device)).cpu()

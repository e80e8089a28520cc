"""The encoders of a DAMSM as an extractor."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch.nn.functional as F
from torch import Tensor, nn

from stackflower.config.schema import Part
from stackflower.errors import ConfigError
from stackflower.evaluation.extractors.base import Extracted, Extractor, compute_checksum
from stackflower.registry import register
from stackflower.runs.trained_text import find_trained_encoder
from stackflower.text.learned import LearnedEncoder
from stackflower.text.regions import IMAGE_WEIGHTS_FILE, load_image_encoder
from stackflower.utils.pixels import scale_pixels


@register("extractor", "damsm")
class DamsmExtractor(Extractor):
    """The encoders of a DAMSM (Xu et al. 2018), trained by `stackflower train-text`, as in AttnGAN's R-precision.

    Args:
        weights: output folder of that command with `loss=damsm`.
    """

    def __init__(self, *, weights: str):
        self.path = Path(weights).expanduser()
        self.model, _ = load_image_encoder(self.path)
        self.family = self.model.family
        part = Part.from_dict(find_trained_encoder(self.path) or {"name": ""})
        encoder = part.create("text")
        if not isinstance(encoder, LearnedEncoder):
            raise ConfigError(f"{self.path} is not the output of `stackflower train-text`.")
        encoder.fit(())
        self.encoder, self.text_encoder = encoder, encoder.fingerprint()

    def network(self) -> nn.Module:
        return nn.ModuleList([self.model, self.encoder.network])

    def describe(self) -> dict[str, object]:
        return {
            "extractor": "damsm",
            "weights_sha256": compute_checksum(self.path / IMAGE_WEIGHTS_FILE),
            "classes": 0,
            "resolution": self.model.size,
            "resize": "antialiased bilinear",
        }

    def extract(self, images: Tensor) -> Extracted:
        features = self.model(scale_pixels(images)).whole
        return Extracted.of(features, vectors=F.normalize(features, dim=1))

    def embed(self, captions: Sequence[str]) -> Tensor:
        return self.encoder.encode(list(captions))

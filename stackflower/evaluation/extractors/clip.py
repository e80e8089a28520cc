"""CLIP as an extractor."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stackflower.errors import MissingDependency
from stackflower.evaluation.extractors.base import Extracted, Extractor
from stackflower.features.base import hash_weights
from stackflower.features.huggingface import CLIP_STATISTICS
from stackflower.features.loading import report_loading_errors
from stackflower.registry import register

CAPTION_BATCH = 64  # captions embedded at a time


@register("extractor", "clip")
class ClipExtractor(Extractor):
    """CLIP (Radford et al. 2021): images and captions in a common space, without classes. Needs the extra `text`.

    Args:
        model: id on the Hugging Face hub, or a local folder.
        weights: local folder of the model, instead of `model`.
    """

    family = "clip"

    def __init__(self, *, model: str = "openai/clip-vit-base-patch32", weights: str | None = None):
        try:
            from transformers import AutoTokenizer, CLIPModel
            from transformers.utils import logging
        except ImportError:
            raise MissingDependency("transformers", "text", "The extractor clip") from None
        logging.set_verbosity_error()
        logging.disable_progress_bar()
        local = Path(weights or model).expanduser()
        name = str(local.resolve()) if local.is_dir() else weights or model
        with report_loading_errors(
            f"CLIP {name}",
            "Give the id of a CLIP model on the Hugging Face hub (needs the network), or its local folder.",
        ):
            self.tokenizer = AutoTokenizer.from_pretrained(name)
            # safetensors only: a pickled checkpoint could run code
            self.model: Any = CLIPModel.from_pretrained(name, use_safetensors=True, dtype=torch.float32)
        self.model.eval().requires_grad_(False)
        self.name, self.size = Path(name).name, int(self.model.vision_model.config.image_size)
        self.checksum = hash_weights(self.model)

    def network(self) -> nn.Module:
        model: nn.Module = self.model
        return model

    def describe(self) -> dict[str, object]:
        return {
            "extractor": f"clip ({self.name})",
            "weights_sha256": self.checksum,
            "classes": 0,
            "resolution": self.size,
            "resize": "antialiased bicubic",
        }

    def extract(self, images: Tensor) -> Extracted:
        size = (self.size, self.size)
        values = F.interpolate(images.float() / 255, size, mode="bicubic", antialias=True, align_corners=False)
        mean, deviation = (values.new_tensor(statistic)[:, None, None] for statistic in CLIP_STATISTICS)
        pooled = self.model.vision_model((values.clamp(0, 1) - mean) / deviation).pooler_output
        features = self.model.visual_projection(pooled)
        return Extracted.of(features, vectors=F.normalize(features, dim=1))

    @torch.inference_mode()
    def embed(self, captions: Sequence[str]) -> Tensor:
        limit, parts = self.model.config.text_config.max_position_embeddings, []
        for first in range(0, len(captions), CAPTION_BATCH):
            tokens = self.tokenizer(
                list(captions[first : first + CAPTION_BATCH]),
                padding=True,
                truncation=True,
                max_length=limit,
                return_tensors="pt",
            ).to(self.model.device)
            pooled = self.model.text_model(
                input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]
            ).pooler_output
            parts.append(F.normalize(self.model.text_projection(pooled), dim=1).cpu())
        return torch.cat(parts)

"""Vision transformers from Hugging Face as features: CLIP's image encoder and DINOv2."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from stackflower.errors import DataError, MissingDependency
from stackflower.features.base import IMAGENET_STATISTICS, Features
from stackflower.features.loading import report_loading_errors
from stackflower.options import Count
from stackflower.registry import register

CLIP_STATISTICS = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


class _HiddenStates(nn.Module):
    """Hidden states of evenly spaced layers, as maps over patches.

    Args:
        tower: vision transformer.
        depth: number of its layers.
        maps: number of layers whose hidden states are returned.
        patch: height and width of a patch in pixels.
    """

    def __init__(self, tower: nn.Module, depth: int, maps: int, patch: int):
        super().__init__()
        self.tower, self.patch = tower, patch
        self.layers = [round(depth * (number + 1) / maps) for number in range(maps)]

    def forward(self, images: Tensor) -> list[Tensor]:
        arguments: dict[str, Any] = {"pixel_values": images, "output_hidden_states": True}
        if "CLIP" in type(self.tower).__name__:
            arguments["interpolate_pos_encoding"] = True
        states = self.tower(**arguments).hidden_states
        rows = images.shape[-1] // self.patch
        # patch tokens come last, after the class token and registers
        return [states[n][:, -rows * rows :].transpose(1, 2).unflatten(2, (rows, rows)) for n in self.layers]


@register("features", "huggingface")
class HuggingFaceFeatures(Features):
    """Image encoder of a CLIP or DINOv2 model from Hugging Face, with hidden states of its layers as maps.

    The layers are evenly spaced, and all maps have the stride of a patch. Requires the extra ``text``, which includes
    transformers.

    Args:
        model: model id on the Hugging Face hub, such as openai/clip-vit-base-patch32 or facebook/dinov2-small, or a
            local folder.
        maps: number of layers to use.
    """

    def __init__(self, *, model: str, maps: Count = 4):
        try:
            from transformers import AutoConfig, CLIPVisionModel, Dinov2Model
            from transformers.utils import logging
        except ImportError:
            raise MissingDependency("transformers", "text", f"The network {model}") from None
        logging.set_verbosity_error()
        local = Path(model).expanduser()
        name = str(local.resolve()) if local.is_dir() else model
        with report_loading_errors(
            f"{model}",
            "Pass the id of a CLIP or DINOv2 model on the Hugging Face hub (needs network access), or a local folder.",
        ):
            kind = AutoConfig.from_pretrained(name).model_type
            if kind not in ("clip", "clip_vision_model", "dinov2"):
                raise DataError(f"the model type is {kind}, not CLIP or DINOv2.")
            tower: Any = Dinov2Model if kind == "dinov2" else CLIPVisionModel
            # safetensors only: a pickled checkpoint could run code
            network = tower.from_pretrained(name, use_safetensors=True, dtype=torch.float32)
            config = network.config
            if not 1 <= maps <= config.num_hidden_layers:
                raise DataError(f"`features.maps` is {maps}, but the model has {config.num_hidden_layers} layers.")
            self.family = "dinov2" if kind == "dinov2" else "clip"
            layers = _HiddenStates(network, config.num_hidden_layers, maps, config.patch_size)
            mean, std = IMAGENET_STATISTICS if kind == "dinov2" else CLIP_STATISTICS
            super().__init__(layers, mean, std, f"huggingface {Path(name).name}", config.patch_size * 8)

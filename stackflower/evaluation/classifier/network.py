"""The domain classifier: a network trained on a data set's own labels, attributes and captions, to score images with."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock

from stackflower import registry
from stackflower.errors import DataError
from stackflower.features.base import Features, mean_vectors, resized
from stackflower.utils.atomic import replacing

Network = Literal["plain", "resnet18", "features"]
WIDTHS: dict[str, int] = {"plain": 32, "resnet18": 40, "features": 512}
SHARED = 256  # numbers of a vector that stands for an image or a caption
FEATURE_SIZE = 160  # px at which a pretrained network looks
FIRST_TEMPERATURE = 2.7  # log of its inverse


class Outputs(NamedTuple):
    """What a domain classifier gives for images."""

    features: Tensor  # (N, F)
    heads: dict[str, Tensor]  # "label" and attributes → logits (N, values)
    vectors: Tensor  # (N, D) of unit length, to compare with captions; D 0 without a caption head


def _plain(width: int) -> tuple[nn.Module, int]:
    """Four strided convolutions, each followed by another: fast, and enough for synthetic images."""
    layers: list[nn.Module] = []
    channels = 3
    for wide in (width, 2 * width, 4 * width, 8 * width):
        layers += [nn.Conv2d(channels, wide, 4, 2, 1, bias=False), nn.BatchNorm2d(wide), nn.ReLU(inplace=True)]
        layers += [nn.Conv2d(wide, wide, 3, 1, 1, bias=False), nn.BatchNorm2d(wide), nn.ReLU(inplace=True)]
        channels = wide
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten()), channels


def _resnet18(width: int, resolution: int) -> tuple[nn.Module, int]:
    """The blocks of ResNet-18 (He et al. 2016) after 3×3 convolutions: one at up to 64 px, and another for each doubling."""
    channels, layers = 3, list[nn.Module]()
    for halving in reversed(range(max(1, math.ceil(math.log2(resolution / 64)) + 1))):
        wide = max(1, width // 2**halving)
        layers += [nn.Conv2d(channels, wide, 3, 2, 1, bias=False), nn.BatchNorm2d(wide), nn.ReLU(inplace=True)]
        channels = wide
    layers.append(nn.MaxPool2d(3, 2, 1))
    for level in range(4):
        wide = width * 2**level
        for stride in (2 if level else 1, 1):
            shortcut = None
            if stride > 1:
                shortcut = nn.Sequential(nn.Conv2d(channels, wide, 1, stride, bias=False), nn.BatchNorm2d(wide))
            layers.append(BasicBlock(channels, wide, stride, shortcut))
            channels = wide
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten()), channels


class _OverFeatures(nn.Module):
    """A layer over what a pretrained network finds, which is standardised first."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, inputs: int, width: int):
        super().__init__()
        self.register_buffer("mean", torch.zeros(inputs))
        self.register_buffer("deviation", torch.ones(inputs))
        self.layers = nn.Sequential(
            nn.Dropout(0.3), nn.Linear(inputs, width), nn.BatchNorm1d(width), nn.ReLU(inplace=True), nn.Dropout(0.5)
        )

    def standardise(self, values: Tensor) -> None:
        """Take mean and deviation from training values (N, inputs)."""
        self.mean.copy_(values.mean(0))
        self.deviation.copy_(values.std(0).clamp_min(1e-6))

    def forward(self, values: Tensor) -> Tensor:
        return self.layers((values - self.mean) / self.deviation)


class CaptionHead(nn.Module):
    """Images and captions as vectors of one space, by a linear map each.

    Args:
        features: size of the image's features.
        text_dim: size of a caption's embedding.
    """

    def __init__(self, features: int, text_dim: int):
        super().__init__()
        self.image, self.text = nn.Linear(features, SHARED), nn.Linear(text_dim, SHARED)
        self.log_scale = nn.Parameter(torch.tensor(FIRST_TEMPERATURE))

    def captions(self, embeddings: Tensor) -> Tensor:
        """Embeddings (N, T) to vectors (N, D) of unit length."""
        return F.normalize(self.text(embeddings).float(), dim=1)

    def images(self, features: Tensor) -> Tensor:
        """Features (N, F) to vectors (N, D) of unit length."""
        return F.normalize(self.image(features).float(), dim=1)


@cache
def _pretrained(part: str) -> Features:
    values = json.loads(part)
    features: Features = registry.create("features", values.pop("name"), **values)
    return features


class DomainClassifier(nn.Module):
    """Images (N, 3, R, R) in [-1, 1] to features (N, F), logits (N, values) of each head, and vectors to compare with captions.

    Args:
        heads: "label" and the attributes, each with the names of its values, in the order of the logits; may be empty where there is a
            caption head.
        resolution: R.
        network: "plain", "resnet18", or "features" for a layer over a pretrained network.
        width: of the first layers; of the layer over a pretrained network.
        features: a part of the kind features, as its name and options, for the network "features".
        fine_tuned: whether that network is trained too; its weights are then the classifier's own.
        text: a part of the kind text, for a caption head; or None.
        text_dim: size of its embeddings.
        trained_on: description of the training data.
        held_out: what was measured on held-out images: ``accuracy`` and ``calibration_error`` of each head, ``r_precision``.
    """

    def __init__(
        self,
        *,
        heads: Mapping[str, tuple[str, ...]],
        resolution: int,
        network: Network = "plain",
        width: int | None = None,
        features: Mapping[str, Any] | None = None,
        fine_tuned: bool = False,
        text: Mapping[str, Any] | None = None,
        text_dim: int = 0,
        trained_on: str = "",
        held_out: Mapping[str, Any] | None = None,
    ):
        super().__init__()
        self.heads = {name: tuple(values) for name, values in heads.items()}
        self.resolution, self.network, self.width = resolution, network, width or WIDTHS[network]
        self.features, self.fine_tuned, self.text, self.text_dim = features, fine_tuned, text, text_dim
        self.trained_on, self.held_out = trained_on, dict(held_out or {})
        self.pretrained: Features | None = None
        self.trunk: nn.Module | None = None
        self.body: nn.Module
        if network == "features":
            self.pretrained = _pretrained(json.dumps(dict(features or {}), sort_keys=True))
            size = self.width
            self.trunk = (
                copy.deepcopy(self.pretrained.network(torch.device("cpu"), torch.float32)) if fine_tuned else None
            )
            if self.trunk is not None:
                self.trunk.requires_grad_(True)
            self.body = _OverFeatures(sum(self.pretrained.channels), size)
        else:
            self.body, size = _plain(self.width) if network == "plain" else _resnet18(self.width, resolution)
        self.outputs = nn.ModuleList(nn.Linear(size, len(values)) for values in self.heads.values())
        self.captions = CaptionHead(size, text_dim) if text is not None else None

    @property
    def frozen(self) -> bool:
        """Whether there is a pretrained network that is not trained."""
        return self.pretrained is not None and not self.fine_tuned

    def perceive(self, images: Tensor) -> Tensor:
        """What is never trained: images (N, 3, R, R) as they are, or what a frozen network finds in them (N, P)."""
        if self.pretrained is None or not self.frozen:
            return images
        with torch.no_grad():
            return mean_vectors(self.pretrained(resized(images, FEATURE_SIZE)))

    def judge(self, perceived: Tensor) -> Outputs:
        """What `perceive` gave, to outputs."""
        if self.trunk is not None and self.pretrained is not None:
            maps = self.trunk(self.pretrained.normalised(resized(perceived, FEATURE_SIZE)))
            perceived = mean_vectors([each.float() for each in maps])
        features = self.body(perceived)
        logits = {name: output(features).float() for name, output in zip(self.heads, self.outputs, strict=True)}
        vectors = features.new_zeros(len(features), 0) if self.captions is None else self.captions.images(features)
        return Outputs(features.float(), logits, vectors.float())

    def forward(self, images: Tensor) -> Outputs:
        return self.judge(self.perceive(images))

    def settings(self) -> dict[str, Any]:
        """The arguments to build it again: `DomainClassifier(**settings)`."""
        names = (
            "heads",
            "resolution",
            "network",
            "width",
            "features",
            "fine_tuned",
            "text",
            "text_dim",
            "trained_on",
            "held_out",
        )
        return {name: getattr(self, name) for name in names}


def save_classifier(model: DomainClassifier, path: Path) -> None:
    """Write a safetensors file with the settings in its metadata, atomically."""
    state = {name: value.detach().contiguous() for name, value in model.state_dict().items()}
    with replacing(path) as temporary:
        save_file(state, temporary, {"domain_classifier": json.dumps(model.settings())})


def load_classifier(path: Path) -> DomainClassifier:
    """Read what `save_classifier` wrote. DataError for anything else."""
    try:
        with safe_open(path, "pt") as handle:
            settings = json.loads((handle.metadata() or {})["domain_classifier"])
        if settings["network"] not in WIDTHS or (settings.get("text") is not None and "name" not in settings["text"]):
            raise ValueError("its metadata name no network, or no text encoder, of this version")
        model = DomainClassifier(**settings)
        model.load_state_dict(load_file(path))
    except FileNotFoundError:
        raise DataError(
            f"The classifier {path} does not exist; train one with `stackflower train-classifier`."
        ) from None
    except (
        SafetensorError,
        AttributeError,
        LookupError,
        TypeError,
        ValueError,
        RuntimeError,
        OSError,
        RecursionError,
    ) as error:
        raise DataError(f"{path} is not a classifier written by `stackflower train-classifier` ({error}).") from error
    return model.eval().requires_grad_(False).to(memory_format=torch.channels_last)

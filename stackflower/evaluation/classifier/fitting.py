"""Fit a domain classifier to labelled images."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from stackflower.evaluation.classifier.augmentation import Mix, augment_lightly, augment_strongly
from stackflower.evaluation.classifier.backbones import FrozenFeatures
from stackflower.evaluation.classifier.losses import compute_caption_loss, compute_class_loss
from stackflower.evaluation.classifier.measuring import precompute_inputs
from stackflower.evaluation.classifier.network import DomainClassifier
from stackflower.evaluation.classifier.targets import LabelledImages

Augmentation = Literal["light", "strong"]
UNMIXED_SHARE = 0.1  # share of the epochs, at the end, without mixup
PRETRAINED_RATE = 0.05  # learning rate of a pretrained network, relative to that of the layers on top


@dataclass(frozen=True)
class TrainingPlan:
    """Settings of a classifier's training with AdamW and a one-cycle learning rate.

    Args:
        epochs: passes over the data.
        augmentation: "light" crops and mirrors at random; "strong" also rotates, changes contrast and brightness,
            erases a square, and applies mixup (Zhang et al. 2018) in the first nine tenths of the epochs.
        batch_size: images per step.
        lr: highest learning rate.
        weight_decay: weight decay of AdamW.
        smoothing: label smoothing.
        contrast: weight of the caption loss.
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


class Batch(NamedTuple):
    """Augmented and mixed images of a training step, with their targets."""

    inputs: Tensor  # inputs of `DomainClassifier.classify`
    targets: dict[str, Tensor]  # (n,) for each head, of the images before mixing
    embeddings: Tensor | None  # (n, T), one caption per image before mixing
    mix: Mix


def fit(
    model: DomainClassifier,
    data: LabelledImages,
    plan: TrainingPlan,
    *,
    precision: torch.dtype | None = None,
    device: torch.device | str = "cpu",
    progress: Callable[[int], None] = lambda done: None,
) -> None:
    """Train a classifier in place.

    The loss is the sum of the cross-entropies of the heads and, with captions, a contrastive loss between images and
    captions.

    Args:
        model: the classifier; it ends up on `device`, in evaluation mode, without gradients.
        data: the training images.
        plan: how to train.
        precision: data type of autocast; None: float32.
        device: device to train on.
        progress: function called after each step with its number of images.
    """
    model.to(device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    batch_size = min(plan.batch_size, len(data.images))
    optimizer, schedule = create_optimizer(model, plan, plan.epochs * (len(data.images) // batch_size))
    for batch in _draw_batches(model, data, plan, batch_size, device, precision):
        with _autocast(device, precision):
            outputs = model.classify(batch.inputs)
        loss = compute_class_loss(outputs.heads, batch.targets, batch.mix, plan.smoothing)
        if batch.embeddings is not None and model.captions is not None:
            loss = loss + plan.contrast * compute_caption_loss(
                model.captions, outputs.vectors, batch.embeddings, batch.targets.get("label"), batch.mix
            )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
        progress(batch_size)
    model.eval().requires_grad_(False)


def create_optimizer(
    model: DomainClassifier, plan: TrainingPlan, steps: int
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    """Create AdamW and its schedule over `steps`; pretrained parameters get a lower learning rate."""
    pretrained = list(model.body.pretrained_parameters())
    pretrained_ids = {id(parameter) for parameter in pretrained}
    others = [parameter for parameter in model.parameters() if id(parameter) not in pretrained_ids]
    rates = [plan.lr, *([plan.lr * PRETRAINED_RATE] if pretrained else [])]
    groups = [{"params": params, "lr": rate} for params, rate in zip((others, pretrained), rates, strict=False)]
    optimizer = torch.optim.AdamW(groups, weight_decay=plan.weight_decay, fused=True)
    rise = 0.1 if plan.augmentation == "strong" else 0.3
    return optimizer, torch.optim.lr_scheduler.OneCycleLR(optimizer, rates, total_steps=steps, pct_start=rise)


def _draw_batches(
    model: DomainClassifier,
    data: LabelledImages,
    plan: TrainingPlan,
    batch_size: int,
    device: torch.device | str,
    precision: torch.dtype | None,
) -> Iterator[Batch]:
    """Draw the batches of all epochs; an incomplete last batch of an epoch is skipped."""
    generator = torch.Generator().manual_seed(plan.seed)
    targets = {name: values.to(device) for name, values in data.targets.items()}
    load_inputs = _create_input_loader(model, data, plan, generator, device, precision)
    steps = len(data.images) // batch_size
    for epoch in range(plan.epochs):
        mixes = plan.augmentation == "strong" and epoch < (1 - UNMIXED_SHARE) * plan.epochs
        order = torch.randperm(len(data.images), generator=generator)
        for index in order[: steps * batch_size].split(batch_size):
            inputs = load_inputs(index)
            mix = (Mix.draw(batch_size, generator) if mixes else Mix.identity(batch_size)).to(device)
            inputs = mix.apply(inputs)
            if inputs.ndim == 4:
                inputs = inputs.contiguous(memory_format=torch.channels_last)
            embeddings = None if data.captions is None else data.captions.draw(index, generator).to(device)
            yield Batch(inputs, {name: values[index.to(device)] for name, values in targets.items()}, embeddings, mix)


def _create_input_loader(
    model: DomainClassifier,
    data: LabelledImages,
    plan: TrainingPlan,
    generator: torch.Generator,
    device: torch.device | str,
    precision: torch.dtype | None,
) -> Callable[[Tensor], Tensor]:
    """Create the function that maps image numbers `(n,)` to inputs of `DomainClassifier.classify`.

    The vectors of a frozen network are computed here, once per image and mirrored image; the function draws one of the
    two.
    """
    if not isinstance(model.body, FrozenFeatures):
        augment = augment_strongly if plan.augmentation == "strong" else augment_lightly
        return lambda index: augment(data.images[index], model.resolution, generator).to(device)
    with _autocast(device, precision):
        views = torch.stack(
            [torch.cat(list(precompute_inputs(model, data.images, device, mirror))) for mirror in (False, True)]
        )
    model.body.standardise(views.flatten(0, 1))
    return lambda index: views[torch.randint(2, (len(index),), generator=generator).to(device), index.to(device)]


def _autocast(device: torch.device | str, precision: torch.dtype | None) -> torch.autocast:
    """Create the context manager of a forward pass in `precision`."""
    return torch.autocast(torch.device(device).type, precision, enabled=precision is not None)

"""Measure a domain classifier on held-out images."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from stackflower.evaluation.classifier.augmentation import crop_center
from stackflower.evaluation.classifier.heads import CaptionHead
from stackflower.evaluation.classifier.network import DomainClassifier, Outputs
from stackflower.evaluation.classifier.targets import CaptionTable, LabelledImages
from stackflower.evaluation.metrics.r_precision import CANDIDATES, r_precision

CALIBRATION_BINS = 15  # Guo et al. (2017)
BATCH_SIZE = 200
CAPTIONS_PER_IMAGE = 10  # captions that R-precision is averaged over


def measure_classifier(
    model: DomainClassifier, data: LabelledImages, device: torch.device | str = "cpu"
) -> dict[str, object]:
    """Measure a classifier on held-out images.

    Returns:
        ``accuracy`` and ``calibration_error`` of each head over the images with a known value, NaN without such images;
        and ``r_precision`` of the captions, with a caption head.
    """
    outputs = classify_images(model, data.images, device)
    accuracy, error = {}, {}
    for name, logits in outputs.heads.items():
        has_value = data.targets[name] >= 0
        rows, target = logits[has_value], data.targets[name][has_value]
        accuracy[name] = float((rows.argmax(1) == target).double().mean()) if len(rows) else math.nan
        error[name] = compute_calibration_error(rows, target) if len(rows) else math.nan
    scores: dict[str, object] = {"accuracy": _round(accuracy), "calibration_error": _round(error)}
    if data.captions is not None and model.captions is not None:
        precision = _compute_r_precision(model.captions, outputs.vectors, data.captions)
        scores |= {} if math.isnan(precision) else {"r_precision": round(precision, 4)}
    return scores


@torch.inference_mode()
def classify_images(model: DomainClassifier, images: Tensor, device: torch.device | str = "cpu") -> Outputs:
    """Classify the central crops of images uint8 `(N, S, S, 3)`; the outputs are on the CPU."""
    parts = [model.classify(inputs) for inputs in precompute_inputs(model, images, device)]
    heads = {name: torch.cat([part.heads[name] for part in parts]).cpu() for name in model.heads}
    features, vectors = (torch.cat([getattr(part, name) for part in parts]).cpu() for name in ("features", "vectors"))
    return Outputs(features, heads, vectors)


def precompute_inputs(
    model: DomainClassifier, images: Tensor, device: torch.device | str, mirror: bool = False
) -> Iterator[Tensor]:
    """Compute the inputs of `DomainClassifier.classify` for images uint8 `(N, S, S, 3)`, in batches.

    Args:
        model: the classifier.
        images: images, cropped to their center.
        device: device to compute on.
        mirror: whether to mirror the images.
    """
    for part in images.split(BATCH_SIZE):
        x = crop_center(part.to(device), model.resolution)
        x = (x.flip(3) if mirror else x).contiguous(memory_format=torch.channels_last)
        yield model.body.precompute(x).float()


def compute_calibration_error(logits: Tensor, target: Tensor, bins: int = CALIBRATION_BINS) -> float:
    """Compute the expected calibration error (Guo et al. 2017, eq. 3).

    It is the mean absolute difference between confidence and accuracy, over bins of confidence.

    Args:
        logits: logits `(N, K)`.
        target: classes `(N,)`.
        bins: number of bins.
    """
    confidence, predicted = logits.double().softmax(1).max(1)
    bin_of = (confidence * bins).ceil().long().clamp(1, bins) - 1
    zero = torch.zeros(bins, dtype=torch.float64)
    gap = zero.index_add(0, bin_of, confidence) - zero.index_add(0, bin_of, (predicted == target).double())
    return float(gap.abs().sum() / len(logits))


def _compute_r_precision(head: CaptionHead, images: Tensor, captions: CaptionTable) -> float:
    """Compute the mean R-precision over the first captions of all images, their second captions, and so on.

    At most `CAPTIONS_PER_IMAGE` captions count; NaN if too few distinct captions exist.
    """
    device, precisions = head.text.weight.device, []
    for number in range(min(int(captions.count.max()), CAPTIONS_PER_IMAGE)):
        rows = captions.embeddings[captions.first + number % captions.count]
        texts = torch.cat([head.project_captions(part.to(device)).cpu() for part in rows.split(BATCH_SIZE)])
        keys = [row.tobytes() for row in rows.numpy()]
        if len(set(keys)) < CANDIDATES:
            return math.nan
        precisions.append(float(r_precision(images, texts, keys).mean()))
    return sum(precisions) / len(precisions)


def _round(values: Mapping[str, float]) -> dict[str, float]:
    return {name: round(value, 4) for name, value in values.items()}

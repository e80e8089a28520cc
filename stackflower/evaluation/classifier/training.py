"""Train a domain classifier on the labels, attributes and captions of a data set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from stackflower import evaluation
from stackflower.build import LOAD_RATIO, clamp_size
from stackflower.config.schema import Part
from stackflower.data.prepared import prepare
from stackflower.data.source import ClassifierData, Source
from stackflower.errors import ConfigError, DataError
from stackflower.evaluation.classifier.backbones import Network
from stackflower.evaluation.classifier.files import save_classifier
from stackflower.evaluation.classifier.fitting import Augmentation, TrainingPlan, fit
from stackflower.evaluation.classifier.measuring import measure_classifier
from stackflower.evaluation.classifier.network import DomainClassifier
from stackflower.evaluation.classifier.targets import find_heads, label_images
from stackflower.text.base import TextEncoder
from stackflower.utils.atomic import reporting_write_errors, try_writing
from stackflower.utils.cache import compute_key, make_cache_folder
from stackflower.utils.devices import get_process_state, resolve_precision
from stackflower.utils.progress import progress_bar

SHIPPED_FOLDER = Path(evaluation.__file__).parent / "weights"  # made by benchmarks/shipped_classifier.py
SOURCE_CLASSIFIER_WIDTH = 24  # keeps its weights below 2 MB in half precision

PLANS: dict[str, TrainingPlan] = {
    "plain": TrainingPlan(30),
    "resnet18": TrainingPlan(45, "strong", batch_size=64, lr=3e-3, smoothing=0.1),
    "fine-tuned": TrainingPlan(6, "strong", batch_size=64, lr=2e-3, smoothing=0.1),
    "features": TrainingPlan(60, batch_size=256, lr=4e-3, weight_decay=0.2, smoothing=0.1, contrast=1.0),
}


@dataclass(frozen=True)
class ClassifierRequest:
    """A request for a classifier: its network, heads and training.

    Args:
        description: description of the data, recorded in protocols.
        resolution: input size in pixels.
        network: "resnet18" or "plain"; ignored if `features` are given.
        features: name and options of a pretrained network to train a layer on; or None.
        fine_tune: whether to train the pretrained network too.
        text: name and options of the text encoder of a caption head; or None.
        epochs: passes over the data; None: the network's default.
        augmentation: "light" or "strong"; None: the network's default.
        width: width of the network; None: its default.
        seed: seed of initial weights, order and augmentation.
        heads: names of the attributes to learn; None: all.
        split: split to train on.
    """

    description: str
    resolution: int = 64
    network: Network = "resnet18"
    features: Mapping[str, Any] | None = None
    fine_tune: bool = False
    text: Mapping[str, Any] | None = None
    epochs: int | None = None
    augmentation: Augmentation | None = None
    width: int | None = None
    seed: int = 0
    heads: tuple[str, ...] | None = None
    split: str = "train"

    def resolve_network(self) -> Network:
        """Return the network to train."""
        return "features" if self.features else self.network

    def resolve_plan(self) -> TrainingPlan:
        """Return the training plan of the network, with the requested changes."""
        plan = PLANS["fine-tuned" if self.fine_tune else self.resolve_network()]
        epochs, augmentation = self.epochs or plan.epochs, self.augmentation or plan.augmentation
        return replace(plan, epochs=epochs, augmentation=augmentation, seed=self.seed)

    def create_model(self, heads: Mapping[str, tuple[str, ...]], text_dim: int) -> DomainClassifier:
        """Create a randomly initialised classifier."""
        torch.manual_seed(self.seed)
        return DomainClassifier(
            heads=heads,
            resolution=self.resolution,
            network=self.resolve_network(),
            width=self.width,
            features=self.features,
            fine_tuned=self.fine_tune,
            text=self.text,
            text_dim=text_dim,
            trained_on=self.description if self.split == "train" else f"{self.description} ({self.split})",
        )


def create_caption_encoder(text: Mapping[str, Any] | None) -> TextEncoder | None:
    """Create the text encoder of a caption head, or return None if none is requested.

    Raises:
        ConfigError: the encoder would have to be trained or fitted first.
    """
    if text is None:
        return None
    encoder: TextEncoder = Part.from_dict(dict(text)).create("text")
    if type(encoder).fit is not TextEncoder.fit:
        raise ConfigError(
            f"`text={text['name']}` is trained or fitted on captions; a classifier needs an encoder that is not. Use "
            "`text=ngram` or a Hugging Face model."
        )
    return encoder


def train_classifier(source: Source, out: Path, request: ClassifierRequest) -> DomainClassifier:
    """Train a classifier on a split, measure it on the held-out split, and write it to `out`.

    It is not measured if it was trained on the held-out split.

    Raises:
        DataError: `out` can't be written, or the data has fewer than two classes and no text encoder is requested.
        ConfigError: the text encoder would have to be trained first.
    """
    with reporting_write_errors(out, DataError):
        try_writing(out)
    size, encoder = clamp_size(round(request.resolution * LOAD_RATIO), source), create_caption_encoder(request.text)
    split = prepare(source, request.split, size)
    heads, classes = find_heads(split, request.heads), sorted(set(split.rows.labels or ()))
    if not heads and encoder is None:
        raise DataError(
            'This data has fewer than two classes; a classifier needs at least two. Set "label" in every row of '
            "metadata.jsonl, or train on captions with `text=ngram`."
        )
    device, plan = get_process_state().device, request.resolve_plan()
    if encoder is not None:
        encoder.to(device)
    model = request.create_model(heads, 0 if encoder is None else encoder.dim)
    data = label_images(split, heads, classes, encoder)
    precision = torch.bfloat16 if resolve_precision("auto") == "bf16" else None
    with progress_bar(f"training a classifier ({plan.epochs} epochs)", plan.epochs * len(split.rows)) as progress:
        fit(model, data, plan, precision=precision, device=device, progress=progress)
    held_out = source.get_held_out_split()
    if held_out is not None and held_out != request.split:
        data = label_images(prepare(source, held_out, size), heads, classes, encoder)
        model.held_out = measure_classifier(model, data, device)
    model.cpu()
    save_classifier(model, out)
    return model


def get_source_classifier(data: ClassifierData, resolution: int) -> Path:
    """Return the file of the classifier trained on a source's `classifier_data`, at a resolution.

    The file is part of the package or in the cache; otherwise the classifier is trained, which takes minutes on a CPU.
    """
    settings: dict[str, Any] = {
        "resolution": resolution,
        "network": "plain",
        "epochs": data.epochs,
        "width": SOURCE_CLASSIFIER_WIDTH,
    }
    name = f"{type(data.source).__name__}-{compute_key('classifier', data.key, data.heads, settings)}.safetensors"
    if (SHIPPED_FOLDER / name).exists():
        return SHIPPED_FOLDER / name
    path = make_cache_folder("classifiers") / name
    if not path.exists():
        train_classifier(data.source, path, ClassifierRequest(data.description, heads=data.heads, **settings))
    return path

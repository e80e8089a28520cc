"""Train a domain classifier from a data set's labels, attributes and captions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from stackflower import evaluation
from stackflower.build import LOAD_RATIO, clamped
from stackflower.config.schema import Part
from stackflower.data.prepared import Prepared, prepare
from stackflower.data.source import ClassifierData, Source
from stackflower.errors import ConfigError, DataError
from stackflower.evaluation.classifier.fitting import Augmentation, CaptionTable, Labelled, Plan, fit, measured
from stackflower.evaluation.classifier.network import DomainClassifier, Network, save_classifier
from stackflower.text.base import TextEncoder
from stackflower.text.cache import embed
from stackflower.utils.atomic import reporting_write_errors, try_writing
from stackflower.utils.cache import cache_folder, key_of
from stackflower.utils.devices import process_state, resolve_precision
from stackflower.utils.progress import progress_bar

WIDTH = 24  # of the classifiers of sources' own data: its weights in half precision are under 2 MB


SHIPPED = Path(evaluation.__file__).parent / "weights"  # made by benchmarks/shipped_classifier.py


PLANS: dict[str, Plan] = {
    "plain": Plan(30),
    "resnet18": Plan(45, "strong", batch_size=64, lr=3e-3, smoothing=0.1),
    "fine-tuned": Plan(6, "strong", batch_size=64, lr=2e-3, smoothing=0.1),
    "features": Plan(60, batch_size=256, lr=4e-3, weight_decay=0.2, smoothing=0.1, contrast=1.0),
}


def heads_of(data: Prepared, names: tuple[str, ...] | None = None) -> dict[str, tuple[str, ...]]:
    """The heads that a split allows: "label", and each attribute with its values; none where it has no labels, or one
    class.
    """
    numbers = sorted(set(data.rows.labels or ()))
    if len(numbers) < 2:
        return {}
    heads = {"label": tuple(data.rows.class_names.get(number, str(number)) for number in numbers)}
    for name, values in data.rows.attributes.items():
        kinds = tuple(sorted(set(values)))
        if (names is None or name in names) and len(kinds) > 1:
            heads[name] = kinds
    return heads


def labelled(
    data: Prepared, heads: Mapping[str, tuple[str, ...]], numbers: list[int], captions: CaptionTable | None = None
) -> Labelled:
    """Targets of each head; −1 where a value was not in training."""
    rows, targets = data.rows, {}
    for name, values in heads.items():
        known: Mapping[Any, int] = {
            value: number for number, value in enumerate(numbers if name == "label" else values)
        }
        column: list[Any] | None = rows.labels if name == "label" else rows.attributes.get(name)
        targets[name] = torch.tensor([known.get(value, -1) for value in column or [None] * len(rows)])
    return Labelled(data.images, targets, captions)


def caption_table(data: Prepared, encoder: TextEncoder | None) -> CaptionTable | None:
    """The embeddings of a split's captions; None without an encoder."""
    if encoder is None:
        return None
    count = torch.tensor([len(captions) for captions in data.captions])
    return CaptionTable(embed(data.flat_captions(), encoder), count.cumsum(0) - count, count)


def caption_encoder(text: Mapping[str, Any] | None) -> TextEncoder | None:
    """The text encoder of a caption head. ConfigError for one that would have to be trained or fitted first."""
    if text is None:
        return None
    encoder: TextEncoder = Part.from_dict(dict(text)).create("text")
    if type(encoder).fit is not TextEncoder.fit:
        raise ConfigError(
            f"`text={text['name']}` is trained or fitted on captions, and a classifier needs an encoder that is not: "
            "`text=ngram`, or a Hugging Face model."
        )
    return encoder


@dataclass(frozen=True)
class Asked:
    """What classifier is asked for: the network, its heads and how it is trained; what is None is the network's own."""

    described: str  # of the data, for protocols
    resolution: int = 64
    network: Network = "resnet18"
    features: Mapping[str, Any] | None = None
    fine_tune: bool = False  # train that network too
    text: Mapping[str, Any] | None = None
    epochs: int | None = None
    augmentation: Augmentation | None = None
    width: int | None = None
    seed: int = 0
    heads: tuple[str, ...] | None = None  # names of the attributes; None: all
    split: str = "train"

    @property
    def plan(self) -> Plan:
        """How it is trained."""
        plan = PLANS["fine-tuned" if self.fine_tune else self.kind]
        epochs, augmentation = self.epochs or plan.epochs, self.augmentation or plan.augmentation
        return replace(plan, epochs=epochs, augmentation=augmentation, seed=self.seed)

    @property
    def kind(self) -> Network:
        """The network."""
        return "features" if self.features else self.network

    def model(self, heads: Mapping[str, tuple[str, ...]], text_dim: int) -> DomainClassifier:
        """The classifier, freshly initialised."""
        torch.manual_seed(self.seed)
        return DomainClassifier(
            heads=heads,
            resolution=self.resolution,
            network=self.kind,
            width=self.width,
            features=self.features,
            fine_tuned=self.fine_tune,
            text=self.text,
            text_dim=text_dim,
            trained_on=self.described if self.split == "train" else f"{self.described} ({self.split})",
        )


def train_classifier(source: Source, out: Path, asked: Asked) -> DomainClassifier:
    """Train on a split, measure on the held-out split unless that is the one, write one file."""
    with reporting_write_errors(out, DataError):
        try_writing(out)
    size, encoder = clamped(round(asked.resolution * LOAD_RATIO), source), caption_encoder(asked.text)
    data = prepare(source, asked.split, size)
    heads = heads_of(data, asked.heads)
    if not heads and encoder is None:
        raise DataError(
            'This data has no labels of two classes or more, which a classifier needs: "label" in every row of '
            "metadata.jsonl. Or compare images with captions: `text=ngram`."
        )
    device, plan = process_state().device, asked.plan
    if encoder is not None:
        encoder.to(device)
    model, numbers = asked.model(heads, 0 if encoder is None else encoder.dim), sorted(set(data.rows.labels or ()))
    rows = labelled(data, heads, numbers, caption_table(data, encoder))
    precision = torch.bfloat16 if resolve_precision("auto") == "bf16" else None
    with progress_bar(f"training a classifier ({plan.epochs} epochs)", plan.epochs * len(data.rows)) as progress:
        fit(model, rows, plan, precision=precision, device=device, progress=progress)
    measured_on = source.held_out()
    if measured_on is not None and measured_on != asked.split:
        held_out = prepare(source, measured_on, size)
        table = caption_table(held_out, encoder)
        model.held_out = measured(model, labelled(held_out, heads, numbers, table), device)
    model.cpu()
    save_classifier(model, out)
    return model


def own_classifier(data: ClassifierData, resolution: int) -> Path:
    """The classifier of a source's own `classifier_data` at a resolution: the package's, from the cache, or made now
    (minutes on a CPU).
    """
    settings: dict[str, Any] = {"resolution": resolution, "network": "plain", "epochs": data.epochs, "width": WIDTH}
    name = f"{type(data.source).__name__}-{key_of('classifier', data.key, data.heads, settings)}.safetensors"
    if (SHIPPED / name).exists():
        return SHIPPED / name
    path = cache_folder("classifiers") / name
    if not path.exists():
        train_classifier(data.source, path, Asked(data.description, heads=data.heads, **settings))
    return path

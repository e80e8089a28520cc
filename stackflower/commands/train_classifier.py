"""The train-classifier command: a domain classifier from a data set's labels and attributes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from stackflower import evaluation
from stackflower.build import LOAD_RATIO, clamped
from stackflower.data.prepared import Prepared, prepare
from stackflower.data.source import ClassifierData, Source
from stackflower.errors import DataError
from stackflower.evaluation.classifier import DomainClassifier, Labelled, Network, accuracy, fit, save_classifier
from stackflower.training.accelerator import process_state, resolve_precision
from stackflower.utils.atomic import try_writing
from stackflower.utils.cache import cache_folder, key_of
from stackflower.utils.progress import Bar

WIDTH = 24  # of the classifiers of sources' own data: its weights in half precision are under 2 MB
SHIPPED = Path(evaluation.__file__).parent / "weights"  # made by benchmarks/shipped_classifier.py


def heads_of(data: Prepared, names: tuple[str, ...] | None = None) -> dict[str, tuple[str, ...]]:
    """The heads that a split allows: "label", and each attribute with its values."""
    labels = data.rows.labels
    if labels is None:
        raise DataError('This data has no labels, which a classifier needs: "label" in every row of metadata.jsonl.')
    numbers = sorted(set(labels))
    if len(numbers) < 2:
        raise DataError(f"This data has {len(numbers)} class; a classifier needs two or more.")
    heads = {"label": tuple(data.rows.class_names.get(number, str(number)) for number in numbers)}
    for name, values in data.rows.attributes.items():
        kinds = tuple(sorted(set(values)))
        if (names is None or name in names) and len(kinds) > 1:
            heads[name] = kinds
    return heads


def labelled(data: Prepared, heads: dict[str, tuple[str, ...]], numbers: list[int]) -> Labelled:
    """Targets of each head; −1 where a value was not in training."""
    rows = data.rows
    assert rows.labels is not None
    position = {number: place for place, number in enumerate(numbers)}
    targets = {"label": torch.tensor([position.get(label, -1) for label in rows.labels])}
    for name, values in heads.items():
        if name != "label":
            place = {value: number for number, value in enumerate(values)}
            targets[name] = torch.tensor([place.get(value, -1) for value in rows.attributes[name]])
    return Labelled(data.images, targets)


def train_classifier(
    source: Source,
    out: Path,
    display: Bar,
    *,
    described: str,
    resolution: int = 64,
    network: Network = "resnet18",
    epochs: int = 30,
    width: int = 32,
    seed: int = 0,
    heads: tuple[str, ...] | None = None,
    smoothing: float = 0.0,
    size: int | None = None,
) -> DomainClassifier:
    """Train on the training split, measure on the held-out split, write one file."""
    size = size or clamped(round(resolution * LOAD_RATIO), source)
    try:
        try_writing(out)
    except OSError as error:
        raise DataError(f"--out {out} can't be written: {error}. Choose another file.") from error
    data = prepare(source, "train", size, display)
    wanted = heads_of(data, heads)
    torch.manual_seed(seed)
    model = DomainClassifier(heads=wanted, resolution=resolution, network=network, width=width, trained_on=described)
    numbers = sorted(set(data.rows.labels or ()))
    device = process_state().device
    precision = torch.bfloat16 if resolve_precision("auto") == "bf16" else None
    with display(f"training a classifier ({epochs} epochs)", epochs * len(data.rows)) as progress:
        fit(
            model,
            labelled(data, wanted, numbers),
            epochs=epochs,
            seed=seed,
            precision=precision,
            device=device,
            smoothing=smoothing,
            progress=progress,
        )
    split = source.held_out()
    if split is not None:
        held_out = prepare(source, split, size, display)
        model.accuracy = {
            k: round(v, 4) for k, v in accuracy(model, labelled(held_out, wanted, numbers), device).items()
        }
    model.cpu()
    save_classifier(model, out)
    return model


def own_classifier(data: ClassifierData, resolution: int, display: Bar) -> Path:
    """The classifier of a source's own `classifier_data` at a resolution: the package's, from the cache, or made now (minutes on a CPU)."""
    settings: dict[str, Any] = {"resolution": resolution, "network": "plain", "epochs": data.epochs, "width": WIDTH}
    name = f"{type(data.source).__name__}-{key_of('classifier', data.key, data.heads, settings)}.safetensors"
    if (SHIPPED / name).exists():
        return SHIPPED / name
    path = cache_folder("classifiers") / name
    if not path.exists():
        train_classifier(data.source, path, display, described=data.description, heads=data.heads, **settings)
    return path

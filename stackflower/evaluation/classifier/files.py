"""Read and write domain classifiers: safetensors files with the settings as JSON in the metadata."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from stackflower.errors import DataError
from stackflower.evaluation.classifier.backbones import DEFAULT_WIDTHS
from stackflower.evaluation.classifier.network import DomainClassifier
from stackflower.utils.atomic import replacing

METADATA_KEY = "domain_classifier"
READ_ERRORS = (  # raised for damaged files and files of other kinds
    SafetensorError,
    AttributeError,
    LookupError,
    TypeError,
    ValueError,
    RuntimeError,
    OSError,
    RecursionError,
)


def save_classifier(model: DomainClassifier, path: Path) -> None:
    """Write a classifier to a file atomically."""
    state = {name: value.detach().contiguous() for name, value in model.state_dict().items()}
    with replacing(path) as temporary:
        save_file(state, temporary, {METADATA_KEY: json.dumps(model.get_settings())})


def load_classifier(path: Path) -> DomainClassifier:
    """Read a file written by `save_classifier`.

    Raises:
        DataError: the file does not exist, or is not a classifier.
    """
    try:
        with safe_open(path, "pt") as handle:
            settings = json.loads((handle.metadata() or {})[METADATA_KEY])
        if settings["network"] not in DEFAULT_WIDTHS or (
            settings.get("text") is not None and "name" not in settings["text"]
        ):
            raise ValueError("its metadata do not name a supported network and text encoder")
        model = DomainClassifier(**settings)
        model.load_state_dict(load_file(path))
    except FileNotFoundError:
        raise DataError(
            f"The classifier {path} does not exist; train one with `stackflower train-classifier`."
        ) from None
    except READ_ERRORS as error:
        raise DataError(f"{path} is not a classifier written by `stackflower train-classifier` ({error}).") from error
    return model.eval().requires_grad_(False).to(memory_format=torch.channels_last)

"""Load the weights of pretrained networks and report errors."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from stackflower import registry
from stackflower.errors import DataError, StackflowerError

if TYPE_CHECKING:
    from stackflower.features.base import Features


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """Read a state dict from a safetensors file, or from a PyTorch file without executing code in it."""
    path = Path(path).expanduser()
    if path.suffix == ".safetensors":
        return load_file(path)
    state: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    return state


def load_features(part: Mapping[str, Any]) -> Features:
    """Load a pretrained network, once per process, so that all of its users share it.

    Args:
        part: name and options of the network.
    """
    return _load_features(json.dumps(dict(part), sort_keys=True))


@cache
def _load_features(part: str) -> Features:
    options = json.loads(part)
    features: Features = registry.create("features", options.pop("name"), **options)
    return features


@contextmanager
def report_loading_errors(network: str, advice: str) -> Iterator[None]:
    """Raise a DataError if a network can't be loaded inside the block.

    Args:
        network: name of the network, the subject of the message.
        advice: sentence that says what to do about it.

    Raises:
        DataError: anything failed, be it the hub, the file or its contents.
    """
    try:
        with torch.device("cpu"):  # overrides the meta device, on which parameters are counted
            yield
    except StackflowerError as error:
        raise DataError(f"{network} can't be used: {error} {advice}") from error
    except FileNotFoundError as error:
        raise DataError(f"{network} can't be loaded: {error.filename} does not exist. {advice}") from error
    except (SafetensorError, EOFError, IndexError) as error:
        raise DataError(
            f"{network} can't be loaded: the file contains no weights, or objects other than weights. {advice}"
        ) from error
    except Exception as error:
        if type(error).__name__ == "UnpicklingError":  # PyTorch's message advises to run the code in the file
            raise DataError(
                f"{network} can't be loaded: the file contains no weights, or objects other than weights. {advice}"
            ) from None
        lines = (str(error) or type(error).__name__).splitlines()
        raise DataError(
            f"{network} can't be loaded: {' '.join(lines[:2]).strip()[:300].rstrip('.:')}. {advice}"
        ) from error

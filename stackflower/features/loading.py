"""Reading the weights of pretrained networks from local files, and the errors of what can't be loaded."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from stackflower.errors import DataError, StackflowerError


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """A state dict from safetensors, or from PyTorch's format without running code."""
    path = Path(path).expanduser()
    if path.suffix == ".safetensors":
        return load_file(path)
    state: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    return state


@contextmanager
def report_loading_errors(what: str, otherwise: str) -> Iterator[None]:
    """DataError where a network can't be loaded, whatever fails: hub, file or contents. `otherwise` says what to do."""
    try:
        with torch.device("cpu"):  # also where networks are only counted, on meta tensors
            yield
    except StackflowerError as error:
        raise DataError(f"{what} can't be used: {error} {otherwise}") from error
    except FileNotFoundError as error:
        raise DataError(f"{what} can't be loaded: there is no file {error.filename}. {otherwise}") from error
    except (SafetensorError, EOFError, IndexError) as error:
        raise DataError(
            f"{what} can't be loaded: the file holds no weights, or more than weights. {otherwise}"
        ) from error
    except Exception as error:
        if type(error).__name__ == "UnpicklingError":  # PyTorch's advice would be to run the code in the file
            raise DataError(
                f"{what} can't be loaded: the file holds no weights, or more than weights. {otherwise}"
            ) from None
        lines = (str(error) or type(error).__name__).splitlines()
        raise DataError(
            f"{what} can't be loaded: {' '.join(lines[:2]).strip()[:300].rstrip('.:')}. {otherwise}"
        ) from error

"""Stackflower: text-to-image GANs of the StackGAN family as parts to train, swap and measure.

Example:
    >>> import stackflower as sf
    >>> sf.list_parts("augmentation")
    ['ada', 'diffaugment', 'none']
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from stackflower.data.images import grid
    from stackflower.evaluation.evaluate import evaluate
    from stackflower.pipeline import Pipeline
    from stackflower.registry import create, list_parts, register
    from stackflower.runs.folder import Run
    from stackflower.training.callbacks import Callback, TrainingProgress
    from stackflower.training.launch import train

# imported when they are used, so that `import stackflower` does not load torch
_PUBLIC = {
    "Callback": "stackflower.training.callbacks",
    "Pipeline": "stackflower.pipeline",
    "Run": "stackflower.runs.folder",
    "TrainingProgress": "stackflower.training.callbacks",
    "create": "stackflower.registry",
    "evaluate": "stackflower.evaluation.evaluate",
    "grid": "stackflower.data.images",
    "list_parts": "stackflower.registry",
    "register": "stackflower.registry",
    "train": "stackflower.training.launch",
}
__all__ = [
    "Callback",
    "Pipeline",
    "Run",
    "TrainingProgress",
    "__version__",
    "create",
    "evaluate",
    "grid",
    "list_parts",
    "register",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'stackflower' has no attribute {name!r}")
    return getattr(import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_PUBLIC})

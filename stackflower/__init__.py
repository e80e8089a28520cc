"""Stackflower: text-to-image GANs of the StackGAN family as parts to train, swap and measure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["Pipeline", "__version__", "register", "scores_of"]

if TYPE_CHECKING:
    from stackflower.commands.evaluate import scores_of
    from stackflower.pipeline import Pipeline
    from stackflower.registry import register


def __getattr__(name: str) -> Any:  # so that `import stackflower` does not load torch
    if name == "Pipeline":
        from stackflower.pipeline import Pipeline

        return Pipeline
    if name == "register":
        from stackflower.registry import register

        return register
    if name == "scores_of":
        from stackflower.commands.evaluate import scores_of

        return scores_of
    raise AttributeError(f"module 'stackflower' has no attribute {name!r}")

"""Callbacks: code of the caller that runs while a training does."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from stackflower.runs.folder import Run


@dataclass(frozen=True)
class TrainingProgress:
    """How far a training is.

    Args:
        run: folder of the run.
        images: number of images seen.
        step: number of finished steps.
        share: share of the training that is done, in [0, 1].
        total: number of images to train on; None while a time limit has not been measured yet.
        stop: ends the training after this step, with a checkpoint; takes the reason.
    """

    run: Run
    images: int
    step: int
    share: float
    total: int | None
    stop: Callable[[str], None]


class Callback:
    """Base class of callbacks; every hook does nothing unless it is overridden.

    Hooks run on every process. A hook that waits for the device, or that takes long, slows the training down.

    Example:
        >>> class Patience(Callback):
        ...     def on_log(self, progress, measures):
        ...         if progress.images > 10_000 and measures["generator/adversarial-64"] > 5:
        ...             progress.stop("the generator's loss")
    """

    def on_step(self, progress: TrainingProgress) -> None:
        """Run after every training step."""

    def on_log(self, progress: TrainingProgress, measures: Mapping[str, float]) -> None:
        """Run after a line of ``metrics.jsonl`` is written; `measures` are its losses and learning rates."""

    def on_checkpoint(self, progress: TrainingProgress, path: Path) -> None:
        """Run after a checkpoint is written to the folder `path`."""

    def on_end(self, progress: TrainingProgress, stopped: str | None) -> None:
        """Run when the training ends; `stopped` says why it ended early, or is None."""


class CallbackList(Callback):
    """Runs several callbacks, in order."""

    def __init__(self, callbacks: Callback | Sequence[Callback] = ()):
        self.callbacks = [callbacks] if isinstance(callbacks, Callback) else list(callbacks)

    def on_step(self, progress: TrainingProgress) -> None:
        for callback in self.callbacks:
            callback.on_step(progress)

    def on_log(self, progress: TrainingProgress, measures: Mapping[str, float]) -> None:
        for callback in self.callbacks:
            callback.on_log(progress, measures)

    def on_checkpoint(self, progress: TrainingProgress, path: Path) -> None:
        for callback in self.callbacks:
            callback.on_checkpoint(progress, path)

    def on_end(self, progress: TrainingProgress, stopped: str | None) -> None:
        for callback in self.callbacks:
            callback.on_end(progress, stopped)

"""Callbacks: code of the caller that runs during a training."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from stackflower.runs.folder import Run


@dataclass(frozen=True)
class TrainingProgress:
    """The progress of a training.

    Args:
        run: folder of the run.
        images: number of images seen.
        step: number of finished steps.
        share: share of the training that is done, in `[0, 1]`.
        total: number of images to train on; None if a time limit sets it and it is not yet estimated.
        stop: function that ends the training after this step, with a checkpoint; takes the reason.
    """

    run: Run
    images: int
    step: int
    share: float
    total: int | None
    stop: Callable[[str], None]


class Callback:
    """Base class of callbacks, whose hooks do nothing unless they are overridden.

    Hooks run in every process. A hook that waits for the device or takes long slows the training down.

    Example:
        >>> class Patience(Callback):
        ...     def on_log(self, progress, measures):
        ...         if progress.images > 10_000 and measures["generator/adversarial-64"] > 5:
        ...             progress.stop("the generator's loss")
    """

    def on_step(self, progress: TrainingProgress) -> None:
        """Run after every training step."""

    def on_log(self, progress: TrainingProgress, measures: Mapping[str, float]) -> None:
        """Run after a line of ``metrics.jsonl`` is written.

        Args:
            progress: progress of the training.
            measures: losses and learning rates of the line, by name.
        """

    def on_checkpoint(self, progress: TrainingProgress, path: Path) -> None:
        """Run after a checkpoint is written.

        Args:
            progress: progress of the training.
            path: folder of the checkpoint.
        """

    def on_end(self, progress: TrainingProgress, stopped: str | None) -> None:
        """Run when the training ends.

        Args:
            progress: progress of the training.
            stopped: why it ended early, if it did.
        """


class CallbackList(Callback):
    """Several callbacks, which run in order."""

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

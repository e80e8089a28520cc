"""Ending a training early: by a signal, a time limit or the end of another process."""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from stackflower.errors import TrainingFailed, summarise_error


class Stop:
    """Ends the training loop after its step, for Ctrl-C, SIGTERM or the time limit; a second Ctrl-C ends it at once.

    Args:
        handle_signals: whether signals are handled at all.
    """

    def __init__(self, handle_signals: bool):
        self.handle_signals = handle_signals
        self.deadline: float | None = None
        self.reason: str | None = None
        self.signal: int | None = None

    def start(self, time_limit: float | None) -> None:
        """Start the clock of a time limit in seconds; None: no limit."""
        self.deadline = None if time_limit is None else time.monotonic() + time_limit

    def request(self, reason: str) -> None:
        """Stop after this step, because of `reason`."""
        self.reason = self.reason or reason

    @contextmanager
    def listening(self) -> Iterator[Stop]:
        """Handle the signals inside the block, in the main thread."""
        if not self.handle_signals:
            yield self
            return

        def handle(number: int, frame: FrameType | None) -> None:
            if self.signal is not None and number == signal.SIGINT:
                raise KeyboardInterrupt
            self.signal, self.reason = number, signal.Signals(number).name

        try:
            previous = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
        except ValueError:  # not the main thread, which alone can set signal handlers
            previous = {}
        try:
            yield self
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def is_requested(self) -> bool:
        """Whether this process should stop."""
        if self.reason is None and self.deadline is not None and time.monotonic() >= self.deadline:
            self.reason = "the time limit"
        return self.reason is not None


@contextmanager
def naming_lost_processes(run: Path) -> Iterator[None]:
    """Raise TrainingFailed where another process of the training was lost.

    torch raises a RuntimeError for it wherever the main thread happens to be.
    """
    try:
        yield
    except RuntimeError as error:
        on = f"Checkpoints are kept; resume with `resume={run}`"
        if found := re.match(r"DataLoader worker \(pid.*?\) (is|exited) ([^.]*)", str(error)):
            raise TrainingFailed(
                f"A worker process that decodes the stream {found[1].replace('is', 'was')} {found[2]}; memory, or "
                f"space in /dev/shm, may have run out. {on}, or use less of both with `data.workers=0`."
            ) from error
        if re.search(r"gloo|nccl|Connection (closed|reset) by peer", str(error), re.IGNORECASE):
            raise TrainingFailed(
                f"Another process of this training ended, or can't be reached; what it said is above or below. {on}. "
                f"({summarise_error(error)})"
            ) from error
        raise

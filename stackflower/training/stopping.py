"""The early end of a training, by a signal, a time limit or the loss of another process."""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from stackflower.errors import TrainingFailed, summarise_error

# Ctrl-C, `kill`, a closed terminal, warnings before the end of a job (SLURM's `--signal`), and a limit of CPU time;
# Windows has the first two
SIGNALS = tuple(
    getattr(signal, name)
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGXCPU")
    if hasattr(signal, name)
)


class Stop:
    """Request to end the training after the current step, by a signal, the time limit or a callback.

    A second Ctrl-C ends the program at once. A signal that the caller ignores, such as SIGHUP with ``nohup``, stays
    ignored.

    Args:
        handle_signals: whether to handle signals.
    """

    def __init__(self, handle_signals: bool):
        self.handle_signals = handle_signals
        self.deadline: float | None = None
        self.reason: str | None = None
        self.signal: int | None = None

    def start(self, time_limit: float | None) -> None:
        """Start the clock.

        Args:
            time_limit: limit in seconds; None: no limit.
        """
        self.deadline = None if time_limit is None else time.monotonic() + time_limit

    def request(self, reason: str) -> None:
        """Request the end of the training after the current step.

        Args:
            reason: what stops the training, as the end of the sentence "Stopped by …".
        """
        self.reason = self.reason or reason

    @contextmanager
    def listening(self) -> Iterator[Stop]:
        """Handle signals inside the block, if it runs in the main thread."""
        if not self.handle_signals:
            yield self
            return

        def handle(number: int, frame: FrameType | None) -> None:
            if self.signal is not None and number == signal.SIGINT:
                raise KeyboardInterrupt
            self.signal, self.reason = number, signal.Signals(number).name

        try:
            previous = {
                number: signal.signal(number, handle)
                for number in SIGNALS
                if number == signal.SIGINT or signal.getsignal(number) is not signal.SIG_IGN
            }
        except ValueError:  # only the main thread can set signal handlers
            previous = {}
        try:
            yield self
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def is_requested(self) -> bool:
        """Return whether this process should stop."""
        if self.reason is None and self.deadline is not None and time.monotonic() >= self.deadline:
            self.reason = "the time limit"
        return self.reason is not None


@contextmanager
def naming_lost_processes(run: Path) -> Iterator[None]:
    """Raise TrainingFailed if another process of the training is lost inside the block.

    torch raises a RuntimeError in that case, from whatever the main thread is doing.

    Args:
        run: folder of the run, for the message.
    """
    try:
        yield
    except RuntimeError as error:
        advice = f"Checkpoints are kept; resume with `resume={run}`"
        if match := re.match(r"DataLoader worker \(pid.*?\) (is|exited) ([^.]*)", str(error)):
            raise TrainingFailed(
                f"A worker process that decodes the stream {match[1].replace('is', 'was')} {match[2]}; memory or "
                f"space in /dev/shm may have run out. {advice}, or use less of both with `data.workers=0`."
            ) from error
        if re.search(r"gloo|nccl|Connection (closed|reset) by peer", str(error), re.IGNORECASE):
            raise TrainingFailed(
                "Another process of this training ended or can't be reached; its own message is above or below. "
                f"{advice}. "
                f"({summarise_error(error)})"
            ) from error
        raise

"""When training is asked to end early."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Stop:
    """Asks the loop to end after its step, for Ctrl-C, SIGTERM or the time limit; a second Ctrl-C ends at once."""

    def __init__(self, time_limit: float | None):
        self.deadline = None if time_limit is None else time.monotonic() + time_limit
        self.reason: str | None = None
        self.signal: int | None = None

    @contextmanager
    def listening(self) -> Iterator[Stop]:
        """Handle the signals inside the block, where this is the main thread."""

        def handle(number: int, frame: FrameType | None) -> None:
            if self.signal is not None and number == signal.SIGINT:
                raise KeyboardInterrupt
            self.signal, self.reason = number, signal.Signals(number).name

        try:
            before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
        except ValueError:  # not the main thread: signals are somebody else's
            before = {}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def asked(self) -> bool:
        """Whether this process was asked to stop."""
        if self.reason is None and self.deadline is not None and time.monotonic() >= self.deadline:
            self.reason = "the time limit"
        return self.reason is not None

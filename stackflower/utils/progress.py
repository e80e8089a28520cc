"""Progress bars on stderr, for work of a known length."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from tqdm import tqdm

logger = logging.getLogger(__name__)

Progress = Callable[[int], None]
"""Called with the number of items just finished."""

_shown: ContextVar[bool] = ContextVar("progress bars are shown", default=True)


@contextmanager
def progress_bars(shown: bool) -> Iterator[None]:
    """Show or hide the progress bars of the block; an inner block can't show what an outer block hides."""
    token = _shown.set(shown and _shown.get())
    try:
        yield
    finally:
        _shown.reset(token)


def bars_shown() -> bool:
    """Return whether progress bars are shown here."""
    return _shown.get()


@contextmanager
def progress_bar(label: str, total: int) -> Iterator[Progress]:
    """Show a progress bar on stderr; without a terminal, log the label and how long it took.

    Args:
        label: what is being done, such as "decoding train".
        total: number of items.

    Yields:
        A function that is called with the number of items just finished.
    """
    if not bars_shown():
        yield lambda finished: None
        return
    began = time.monotonic()
    with tqdm(total=total, desc=label, file=sys.stderr, disable=None, dynamic_ncols=True) as bar:
        if bar.disable:
            logger.info(label)
        yield lambda finished: bar.update(finished) and None
    if bar.disable:
        logger.info("  done in %s", format_duration(time.monotonic() - began))


@contextmanager
def above_bars() -> Iterator[None]:
    """Clear the progress bars while something else is written to stderr."""
    with tqdm.external_write_mode(file=sys.stderr):
        yield


def format_duration(seconds: float) -> str:
    """Format a duration as people write it: ``42s``, ``3m10s``, ``2h05m``."""
    whole = int(seconds + 0.5)
    if whole < 60:
        return f"{whole}s"
    return f"{whole // 60}m{whole % 60:02d}s" if whole < 3600 else f"{whole // 3600}h{whole % 3600 // 60:02d}m"

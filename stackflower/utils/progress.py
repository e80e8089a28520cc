"""Progress on stderr, for whatever takes long and knows how far it is."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import click
from tqdm import tqdm

Progress = Callable[[int], None]
"""Called with the number of items just finished."""
Bar = Callable[[str, int], AbstractContextManager[Progress]]
"""Makes a progress display from a label and a length."""
Say = Callable[[str], None]
"""Tells the user a sentence."""


def duration(seconds: float) -> str:
    """A time as people write it: ``42s``, ``3m10s``, ``2h05m``."""
    whole = int(seconds + 0.5)
    if whole < 60:
        return f"{whole}s"
    return f"{whole // 60}m{whole % 60:02d}s" if whole < 3600 else f"{whole // 3600}h{whole % 3600 // 60:02d}m"


@contextmanager
def bar(label: str, length: int) -> Iterator[Progress]:
    """A progress bar on stderr; without a terminal, the label and how long it took."""
    began = time.monotonic()
    with tqdm(total=length, desc=label, file=sys.stderr, disable=None, dynamic_ncols=True) as display:
        if display.disable:
            click.echo(label, err=True)
        yield lambda done: display.update(done) and None
    if display.disable:
        click.echo(f"  done in {duration(time.monotonic() - began)}", err=True)


@contextmanager
def silent(label: str, length: int) -> Iterator[Progress]:
    """No progress bar."""
    yield lambda done: None

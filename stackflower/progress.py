"""Progress on stderr, for whatever takes long and knows how far it is."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

from stackflower.data.source import Progress
from stackflower.journal import duration


@contextmanager
def bar(label: str, length: int) -> Iterator[Progress]:
    """A progress bar on stderr; without a terminal, the label and how long it took."""
    began = time.monotonic()
    stream = sys.stderr
    progressbar: Any = click.progressbar  # untyped in some versions of click
    with progressbar(length=length, label=label, file=stream, width=24) as display:
        yield lambda done: display.update(done)
    if not stream.isatty():
        click.echo(f"  done in {duration(time.monotonic() - began)}", err=True)


@contextmanager
def silent(label: str, length: int) -> Iterator[Progress]:
    """No progress bar."""
    yield _nothing


def _nothing(done: int) -> None:
    """Progress that nobody watches."""

"""Standard streams that tolerate closed descriptors, full disks, closed terminals and any encoding.

A command must not fail because its messages can't be printed.
"""

from __future__ import annotations

import codecs
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO

REPLACING = "stackflower-replace"  # name of the error handler


def replace_unencodable(error: UnicodeError) -> tuple[bytes | str, int]:
    """Replace unencodable characters with question marks, but keep undecodable bytes of file names.

    Args:
        error: error of the codec.
    """
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end]
    odd = range(0xDC80, 0xDD00)  # surrogates that stand for undecodable bytes
    return bytes(ord(char) - 0xDC00 if ord(char) in odd else ord("?") for char in text), error.end


codecs.register_error(REPLACING, replace_unencodable)


class TolerantFile(io.FileIO):
    """File that drops data that can't be written, because the disk is full or the terminal is closed.

    Args:
        descriptor: open file descriptor, which stays open.
        name: description of the output, for the warning; None: no warning.
    """

    def __init__(self, descriptor: int, name: str | None = None):
        super().__init__(descriptor, "w", closefd=False)
        self.label, self.is_lost = name, False

    def write(self, data: Any) -> int | None:  # type: ignore[override]
        if self.is_lost:
            return len(memoryview(data).cast("B"))
        try:
            return super().write(data)
        except OSError as error:
            if isinstance(error, BrokenPipeError) and self.label is not None:
                raise  # the reader of the results closed the pipe
            self.is_lost = True
            if self.label is not None:
                print(f"Warning: {self.label} can't be written: {error.strerror}.", file=sys.stderr, flush=True)
            return len(memoryview(data).cast("B"))


def _tolerate(stream: Any, label: str | None) -> TextIO:
    """Return a stream that writes to the same file as `stream`, and does not fail."""
    buffer = getattr(stream, "buffer", None)
    raw = getattr(buffer, "raw", buffer)  # with PYTHONUNBUFFERED, the stream has no buffer
    if type(raw) is io.FileIO:
        stream.flush()
        buffered = io.BufferedWriter(TolerantFile(raw.fileno(), label))
        return io.TextIOWrapper(buffered, stream.encoding, REPLACING, line_buffering=True)
    if isinstance(stream, io.TextIOWrapper):  # the Windows console, or the stream of a test
        with suppress(OSError, io.UnsupportedOperation):
            stream.reconfigure(errors=REPLACING)
    return stream


def open_closed_streams() -> None:
    """Open closed standard streams on the null device, so that no other file gets their descriptors."""
    for descriptor, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free descriptor
        if getattr(sys, name) is None:
            setattr(sys, name, open(descriptor, mode, encoding="utf-8", closefd=False))  # noqa: SIM115


@contextmanager
def tolerant_streams() -> Iterator[None]:
    """Make the standard streams in the block replace unencodable characters and drop unwritable output."""
    open_closed_streams()
    before = sys.stdout, sys.stderr
    sys.stderr = _tolerate(sys.stderr, None)
    sys.stdout = _tolerate(sys.stdout, "The output")
    try:
        yield
    finally:
        for stream, original in ((sys.stdout, before[0]), (sys.stderr, before[1])):
            if stream is not original:
                _close(stream)
        sys.stdout, sys.stderr = before


def _close(stream: TextIO) -> None:
    """Flush the buffers; drop their contents if they can't be written."""
    try:
        stream.flush()
    except (OSError, ValueError):
        with suppress(AttributeError):
            stream.buffer.raw.is_lost = True  # type: ignore[attr-defined]


def echo(text: str, err: bool = False) -> None:
    """Print a line.

    Args:
        text: the line.
        err: print on stderr instead of stdout.
    """
    stream = sys.stderr if err else sys.stdout
    stream.write(f"{text}\n")
    stream.flush()


def can_print(text: str) -> bool:
    """Return whether stdout can encode a text."""
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except (UnicodeError, LookupError):
        return False
    return True


def decode_argument(text: str) -> str:
    """Decode a command-line argument as UTF-8, in case Python decoded it in another encoding.

    Args:
        text: argument that is not a path.
    """
    try:
        return os.fsencode(text).decode("utf-8")
    except UnicodeError:
        return text

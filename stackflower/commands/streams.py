"""The standard streams of a command: closed ones, full disks, lost terminals, and any encoding.

A command's work must not fail because its talk can't be printed.
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
    """Replace characters that a stream can't encode by question marks; keep the odd bytes of a file name.

    Args:
        error: the error that the codec reports.
    """
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end]
    odd = range(0xDC80, 0xDD00)  # bytes that Python could not decode
    return bytes(ord(char) - 0xDC00 if ord(char) in odd else ord("?") for char in text), error.end


codecs.register_error(REPLACING, replace_unencodable)


class TolerantFile(io.FileIO):
    """A file that drops what can't be written, on a full disk or to a terminal that was closed.

    Args:
        descriptor: open file descriptor, which stays open.
        name: what is printed there, for the warning; None: no warning.
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
                raise  # the reader of the results has enough
            self.is_lost = True
            if self.label is not None:
                print(f"Warning: {self.label} can't be written: {error.strerror}.", file=sys.stderr, flush=True)
            return len(memoryview(data).cast("B"))


def _tolerate(stream: Any, label: str | None) -> TextIO:
    """Return a stream that writes what `stream` would, and can't fail."""
    buffer = getattr(stream, "buffer", None)
    raw = getattr(buffer, "raw", buffer)  # with PYTHONUNBUFFERED, the stream has no buffer
    if type(raw) is io.FileIO:
        stream.flush()
        buffered = io.BufferedWriter(TolerantFile(raw.fileno(), label))
        return io.TextIOWrapper(buffered, stream.encoding, REPLACING, line_buffering=True)
    if isinstance(stream, io.TextIOWrapper):  # the console of Windows, or the stream of a test
        with suppress(OSError, io.UnsupportedOperation):
            stream.reconfigure(errors=REPLACING)
    return stream


def open_closed_streams() -> None:
    """Open closed standard streams on the null device, so that no other file is given their descriptors."""
    for descriptor, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # is given the lowest free descriptor
        if getattr(sys, name) is None:
            setattr(sys, name, open(descriptor, mode, encoding="utf-8", closefd=False))  # noqa: SIM115


@contextmanager
def tolerant_streams() -> Iterator[None]:
    """Print in the block to streams that replace what they can't encode and drop what they can't write."""
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
    """Write what is left in the buffers; drop it if nobody reads it."""
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
    """Return an argument of the command line as text, if Python read its UTF-8 bytes in another encoding.

    Args:
        text: argument that is not a path.
    """
    try:
        return os.fsencode(text).decode("utf-8")
    except UnicodeError:
        return text

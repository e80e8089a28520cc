"""Limit of the files that a process may have open."""

from __future__ import annotations

import errno
import os

ASSUMED_OPEN = 32  # where the system does not list a process's open files


def count_left() -> int | None:
    """Count the files that this process can still open; None if the system states no limit."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if limit == resource.RLIM_INFINITY:
        return None
    for folder in ("/proc/self/fd", "/dev/fd"):
        try:
            numbers = [int(name) for name in os.listdir(folder)]
            return limit - sum(number < limit for number in numbers) + 1  # to list them is one of them
        except OSError as error:
            if is_limit_reached(error):
                return 0
    return max(0, limit - ASSUMED_OPEN)


def choose_open_count(most: int, held: int = 0) -> int:
    """Choose how many files to keep open: half of those that the process can still open, at least 1.

    Args:
        most: the largest number that is of use.
        held: how many files are kept open so far.
    """
    left = count_left()
    return most if left is None else max(1, min(most, (left + held) // 2))


def is_limit_reached(error: OSError) -> bool:
    """Return whether a file could not be opened because too many files are open."""
    return error.errno in (errno.EMFILE, errno.ENFILE)


def explain_read_error(error: OSError) -> str:
    """Return the reason why a file can't be read, with advice if too many files are open."""
    if is_limit_reached(error):
        return "too many files are open; raise the limit, as in `ulimit -n 1024`"
    return error.strerror or str(error)

"""Stackflower's exceptions. Each message says what happened, what was expected and what to type next."""

from __future__ import annotations

from collections.abc import Iterable


class StackflowerError(Exception):
    """Base class of Stackflower's exceptions; the command line prints the message and exits with `exit_code`."""

    exit_code = 2


class ComponentError(StackflowerError):
    """A part is unknown, has a wrong option, can't be built or imported, or is registered twice."""


class ConfigError(StackflowerError):
    """A configuration or an argument is wrong; the message lists every mistake.

    Args:
        problems: one sentence per mistake.
    """

    def __init__(self, problems: str | Iterable[str]):
        self.problems = [problems] if isinstance(problems, str) else list(problems)
        super().__init__("\n".join(self.problems))


class DataError(StackflowerError):
    """A data set can't be used as it is."""


class ColumnError(DataError):
    """Columns of a table are unclear.

    Args:
        message: the message.
        content: what the columns hold, "image" or "text".
        candidates: columns that may hold it; empty if none does.
    """

    def __init__(self, message: str, content: str, candidates: Iterable[str] = ()):
        super().__init__(message)
        self.content, self.candidates = content, tuple(candidates)


class RunError(StackflowerError):
    """A run folder can't be used as it is: it is missing, incomplete, in use or of another configuration."""


class ModelError(StackflowerError):
    """A model can't be used as it is: it is unknown, unreachable, incomplete, damaged or of a newer version."""


class MissingDependency(StackflowerError):
    """An optional library is not installed; the message names the extra to install.

    Args:
        library: name of the library.
        extra: extra of Stackflower that installs it.
        purpose: what needs the library, as the subject of the message.
    """

    def __init__(self, library: str, extra: str, purpose: str):
        super().__init__(f'{purpose} needs {library}: pip install "stackflower[{extra}]"')


class TrainingFailed(StackflowerError):
    """Training can't continue: a loss stayed non-finite, or a checkpoint could not be written."""

    exit_code = 1


def summarise_error(error: BaseException) -> str:
    """Return the first line of an error's message, or its type where it has none."""
    return (str(error) or type(error).__name__).splitlines()[0]

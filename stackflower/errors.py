"""Stackflower's exceptions. Each message says what was given, what is allowed and what to type next."""

from __future__ import annotations

from collections.abc import Iterable


class StackflowerError(Exception):
    """Base of all of Stackflower's exceptions; the command line prints the message and exits with `exit_code`."""

    exit_code = 2


class ComponentError(StackflowerError):
    """An unknown part, an option it does not have, or a name that is registered twice."""


class ConfigError(StackflowerError):
    """Everything that is wrong with a configuration, as a list `problems`."""

    def __init__(self, problems: str | Iterable[str]):
        self.problems = [problems] if isinstance(problems, str) else list(problems)
        super().__init__("\n".join(self.problems))


class DataError(StackflowerError):
    """A data set that cannot be used as it is."""


class RunError(StackflowerError):
    """A run folder that cannot be used as it is: missing, incomplete, of another configuration, or in use."""


class MissingDependency(StackflowerError):
    """An optional library is not installed; the message names the extra to install."""

    def __init__(self, library: str, extra: str, purpose: str):
        super().__init__(f'{purpose} needs {library}: pip install "stackflower[{extra}]"')


class TrainingFailed(StackflowerError):
    """Training could not go on: a loss stayed non-finite, or a checkpoint could not be written."""

    exit_code = 1

"""Output of commands: messages and errors on stderr, results on stdout, parameters spelled as flags.

The library writes parameters in backquotes, as in `seed` or `train.batch_size=8`, and logs to the logger
``stackflower``. This module replaces them with flags of the running command: ``--seed``, ``--batch-size 8``.
"""

from __future__ import annotations

import importlib
import json
import logging
import math
import re
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import click

from stackflower.commands.streams import can_print, echo, tolerant_streams
from stackflower.errors import StackflowerError
from stackflower.utils.open_files import explain_read_error, is_limit_reached
from stackflower.utils.progress import above_bars, progress_bars

CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 110}
PARAMETER = re.compile(r"`([a-z][a-z0-9_]*(?:\.[a-z0-9_-]+)*)(?:=([^`]*))?`")


class Command(click.Command):
    """Command that prints messages and errors of the library, with parameters spelled as flags of the command.

    Args:
        settings: names of parameters in the library, by parameter of the command. Unlisted parameters have the same
            name in both.
        when_interrupted: advice to print after Ctrl-C, as a sentence.
    """

    def __init__(
        self, *args: Any, settings: Mapping[str, str] | None = None, when_interrupted: str = "", **kwargs: Any
    ):
        kwargs.setdefault("context_settings", CONTEXT)
        super().__init__(*args, **kwargs)
        self.settings, self.when_interrupted = dict(settings or {}), when_interrupted
        self.params += [
            click.Option(["-q", "--quiet"], is_flag=True, help="Print warnings, errors and results only."),
            click.Option(["-v", "--verbose"], is_flag=True, help="Print debug messages, too."),
        ]

    def invoke(self, ctx: click.Context) -> Any:
        quiet, verbose = ctx.params.pop("quiet"), ctx.params.pop("verbose")
        level = logging.WARNING if quiet else logging.DEBUG if verbose else logging.INFO
        with messages_on_stderr(level, self.spell), progress_bars(not quiet):
            try:
                return super().invoke(ctx)
            except StackflowerError as error:
                echo(f"Error: {self.spell(str(error))}", err=True)
                ctx.exit(error.exit_code)
            except OSError as error:
                if not is_limit_reached(error):
                    raise
                reason = explain_read_error(error)
                echo(f"Error: {reason[:1].upper()}{reason[1:]}.", err=True)
                ctx.exit(1)
            except RuntimeError as error:
                if "home directory" not in str(error):  # the message of pathlib
                    raise
                echo("Error: Can't expand ~ in a path: HOME is not set, and the user has no home directory.", err=True)
                ctx.exit(2)
            except KeyboardInterrupt:
                echo(f"Interrupted. {self.when_interrupted}".strip(), err=True)
                ctx.exit(128 + signal.SIGINT)

    def spell(self, text: str) -> str:
        """Replace the parameters in a message of the library with the flags and arguments of this command.

        Args:
            text: message with parameters in backquotes.
        """
        flags: dict[str, tuple[str, bool]] = {}
        arguments: dict[str, str] = {}
        for param in self.params:
            setting = self.settings.get(str(param.name), str(param.name))
            if isinstance(param, click.Option):
                flags[str(param.name)] = flags[setting] = max(param.opts, key=len), param.is_flag
            else:
                arguments[setting] = param.human_readable_name

        def replace(match: re.Match[str]) -> str:
            name, value = match.groups()
            if name in flags:
                flag, is_flag = flags[name]
                return flag if value is None or is_flag else f"{flag} {value}"
            if name in arguments:
                return arguments[name] if value is None else str(value)
            if "." not in name:
                return match[0]
            return name if value is None else f"--set {name}={value}"

        return PARAMETER.sub(replace, text)


class Group(click.Group):
    """Group that lists its commands in insertion order and survives a closed pipe."""

    command_class = Command

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            sys.stderr.close()
            ctx.exit(1)


class LazyGroup(Group):
    """Group that imports its commands on first use.

    Args:
        name: name of the group.
        commands: ``module:attribute`` of each command, by name.
    """

    def __init__(self, name: str, *, commands: Mapping[str, str], **kwargs: Any):
        super().__init__(name, context_settings=CONTEXT, **kwargs)
        self.targets = dict(commands)

    def main(self, *args: Any, **kwargs: Any) -> Any:
        with tolerant_streams():
            return super().main(*args, **kwargs)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.targets)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.targets:
            return None
        module, _, attribute = self.targets[cmd_name].partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command


def version_option(version: str) -> click.Option:
    """Build the option ``--version``.

    Args:
        version: version to print.
    """

    def show_version(ctx: click.Context, param: click.Parameter, value: bool) -> None:
        if value and not ctx.resilient_parsing:
            echo(f"stackflower, version {version}")
            ctx.exit()

    return click.Option(
        ["--version"],
        is_flag=True,
        expose_value=False,
        is_eager=True,
        callback=show_version,
        help="Show the version and exit.",
    )


class _Handler(logging.Handler):
    """Handler that writes messages to stderr, above progress bars."""

    def __init__(self, level: int, spell: Callable[[str], str]):
        super().__init__(level)
        self.spell = spell

    def emit(self, record: logging.LogRecord) -> None:
        text = self.spell(record.getMessage())
        warning = "Warning: " if record.levelno == logging.WARNING else ""
        with above_bars():
            echo(f"{warning}{text}", err=True)


@contextmanager
def messages_on_stderr(level: int, spell: Callable[[str], str]) -> Iterator[None]:
    """Print messages of the library to stderr inside the block.

    Args:
        level: lowest level to print.
        spell: function that replaces the parameters in a message with flags.
    """
    logger, handler = logging.getLogger("stackflower"), _Handler(level, spell)
    before = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(level)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before[0])
        logger.propagate = before[1]


def spell(text: str) -> str:
    """Replace the parameters in a text of the library with the flags of the running command."""
    command = click.get_current_context().command
    return command.spell(text) if isinstance(command, Command) else text


def show(values: dict[str, Any], as_json: bool, text: Callable[[], str]) -> None:
    """Print a result on stdout.

    Args:
        values: result, for JSON.
        as_json: print one JSON object instead of text.
        text: function that formats the result as text.
    """
    if not as_json:
        echo(text())
        return
    line = json.dumps(to_json(values), ensure_ascii=False, allow_nan=False)
    echo(line if can_print(line) else json.dumps(to_json(values), allow_nan=False))


def to_json(value: Any) -> Any:
    """Convert to JSON types; NaN and infinity become null."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: to_json(item) for key, item in value.items()}
    return [to_json(item) for item in value] if isinstance(value, (list, tuple)) else value

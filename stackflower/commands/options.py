"""Types and options that several commands share."""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click

from stackflower.errors import ConfigError

F = TypeVar("F", bound=Callable[..., Any])


class Finite(click.FloatRange):
    """A finite number in a range."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a finite number.", param, ctx)
        return number


class Limit(click.ParamType):
    """A limit of a score, such as ``is=3.2``."""

    name = "limit"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, float]:
        if isinstance(value, tuple):
            return value
        name, _, number = str(value).partition("=")
        try:
            limit = float(number)
        except ValueError:
            limit = math.nan
        if math.isnan(limit):
            self.fail(f"{value!r} should be METRIC=VALUE, such as is=3.2.", param, ctx)
        return name.strip(), limit


class Duration(click.ParamType):
    """A duration such as ``90s``, ``20m`` or ``1h30m``; a plain number is in seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, (int, float)):
            return float(value)
        match = re.fullmatch(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+(?:\.\d+)?)s?)?", value.strip())
        parts = match.groups() if match else ()
        seconds = sum(float(part or 0) * unit for part, unit in zip(parts, (3600, 60, 1), strict=False))
        if not seconds:
            self.fail(f"{value!r} is not a duration; write it as 90s, 20m or 1h30m.", param, ctx)
        return seconds


def format_examples(*lines: str) -> str:
    """Format examples for the end of a command's help."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)


RESUMES = "Rerun the command: it keeps the images and shards that are finished."
SEED = click.IntRange(0, 2**63 - 1)
DATA_HELP = "synthetic-flowers, an image folder with metadata.jsonl or metadata.csv, or WebDataset shards."

seed_option = click.option("--seed", type=SEED, default=0, show_default=True, help="Random seed.")
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
threads_option = click.option(
    "--threads",
    type=click.IntRange(1),
    help="Number of threads on a CPU.  [default: OMP_NUM_THREADS, else the fastest number, which is measured]",
)
checkpoint_option = click.option(
    "--checkpoint",
    metavar="best|IMAGES",
    help="Weights to use: those that scored best in training (with --eval-every), or the checkpoint after this many "
    "images.  [default: the last]",
)
format_option = click.option("--format", "layout", metavar="NAME", help="Layout of the source.  [default: detected]")
on_error_option = click.option(
    "--on-error",
    type=click.Choice(["fail", "skip"]),
    default="fail",
    show_default=True,
    help="What to do with unusable rows and images: list them and stop, or list and skip them.",
)


def settings_option(what: str, metavar: str = "PART.OPTION=VALUE") -> Callable[[F], F]:
    """Build the option ``--set``.

    Args:
        what: sentence that says what can be set, for the help.
        metavar: form of the values, for the help.
    """
    return click.option("--set", "settings", metavar=metavar, multiple=True, help=f"{what} Repeatable.")


def layout_options(command: F) -> F:
    """Add the options ``--set`` and ``--format`` to a command that reads any data set."""
    return format_option(settings_option("An option of the layout.", "data.OPTION=VALUE")(command))


def parse_settings(
    texts: Sequence[str], allowed: str = "PART.OPTION=VALUE", example: str = "generator.channels=96"
) -> dict[str, Any]:
    """Read the values of ``--set``, each as TOML if it is valid TOML, otherwise as text.

    Args:
        texts: values of ``--set``.
        allowed: form that the values must have, for the error message.
        example: value of that form, for the error message.

    Returns:
        Values by dotted name.

    Raises:
        ConfigError: a value has another form.
    """
    settings = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals:
            raise ConfigError(f"--set {text}: it should be {allowed}, as in --set {example}.")
        try:
            settings[key.strip()] = tomllib.loads(f"value = {value.strip()}")["value"]
        except tomllib.TOMLDecodeError:
            settings[key.strip()] = value.strip()
    return settings


def parse_part_options(texts: Sequence[str], kinds: Sequence[str], example: str) -> dict[str, dict[str, Any]]:
    """Read the values of ``--set`` in a command that configures only some kinds of part.

    Args:
        texts: values of ``--set``.
        kinds: kinds whose options may be set.
        example: value for the error message.

    Returns:
        Options by name, for each kind.

    Raises:
        ConfigError: a value has another form, or belongs to another kind.
    """
    options: dict[str, dict[str, Any]] = {kind: {} for kind in kinds}
    allowed = " or ".join(f"{kind}.OPTION=VALUE" for kind in kinds)
    for key, value in parse_settings(texts, allowed, example).items():
        kind, dot, option = key.partition(".")
        if not (dot and option and kind in options and "." not in option):
            raise ConfigError(f"--set {key}={value}: it should be {allowed}, as in --set {example}.")
        options[kind][option] = value
    return options


def model_options(command: F) -> F:
    """Add the options of a model folder: its example captions, the type of its weights, and its licence."""
    options = (
        click.option(
            "--caption",
            "captions",
            multiple=True,
            help="Example caption to show with the model. Repeatable.  [default: captions of the training data]",
        ),
        click.option("--half", is_flag=True, help="Store the weights in float16: half the size."),
        click.option(
            "--data-name", metavar="NAME", help="Name of the training data in the model card.  [default: their folder]"
        ),
        click.option("--license", metavar="ID", help="Licence of the weights, such as cc-by-4.0."),
    )
    for option in reversed(options):
        command = option(command)
    return command

"""Values that a request to the demo may contain, and the sentences for those that it may not."""

from __future__ import annotations

import math
from typing import Any

from stackflower.data.rows.checks import MAX_WORDS
from stackflower.errors import ConfigError
from stackflower.text.checks import clean_captions

MAX_IMAGES = 64  # per request
MAX_CANDIDATES = 16  # per image, for `best_of`
MAX_CHARACTERS = 10_000  # of a caption
MAX_SEED = 2**53 - 1  # largest integer that a browser can represent, with all smaller ones
MAX_TRUNCATION = 3.0  # standard deviations


def read_caption(value: Any, name: str = "caption") -> str:
    """Check a caption and collapse its whitespace.

    Args:
        value: caption of a request.
        name: name of the parameter, for the message.

    Raises:
        ConfigError: the caption is empty, too long or not text.
    """
    if not isinstance(value, str):
        raise ConfigError(f"`{name}` must be text, got {_shorten(value)}.")
    if not value.strip():
        raise ConfigError(f"`{name}` is empty; describe what the image should show.")
    if len(value) > MAX_CHARACTERS:
        raise ConfigError(f"`{name}` has {len(value):,} characters; at most {MAX_CHARACTERS:,} are allowed.")
    if (count := len(value.split())) > MAX_WORDS:
        raise ConfigError(f"`{name}` has {count:,} words; at most {MAX_WORDS:,} are allowed.")
    return clean_captions([value])[0]


def read_integer(name: str, value: Any, least: int, most: int) -> int:
    """Check an integer, which may come as a float such as 8.0.

    Args:
        name: name of the parameter, for the message.
        value: value of a request.
        least: smallest allowed value.
        most: largest allowed value.

    Raises:
        ConfigError: the value is of another type or out of range.
    """
    whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
    if isinstance(value, bool) or not whole or not least <= value <= most:
        raise ConfigError(f"`{name}` must be an integer from {least:,} to {most:,}, got {_shorten(value)}.")
    return int(value)


def read_seed(value: Any, name: str = "seed") -> int:
    """Check a seed.

    Raises:
        ConfigError: the value is of another type or out of range.
    """
    return read_integer(name, value, 0, MAX_SEED)


def read_optional_seed(value: Any, name: str) -> int | None:
    """Check a seed that may be missing: None or an empty text. It may come as digits.

    Args:
        value: value of a request.
        name: name of the parameter, for the message.

    Raises:
        ConfigError: the value is of another type or out of range.
    """
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    digits = isinstance(value, str) and value.isascii() and value.strip().isdecimal() and len(value) <= 20
    return read_seed(int(value) if digits else value, name)


def read_truncation(value: Any) -> float | None:
    """Check a truncation of the noise; return None for 0 and None, which turn it off.

    Raises:
        ConfigError: the value is of another type or out of range.
    """
    if value is None:
        return None
    number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if not number or not 0 <= value <= MAX_TRUNCATION:
        raise ConfigError(
            f"`truncation` must be a number from 0 to {MAX_TRUNCATION:g}, where 0 turns it off, got {_shorten(value)}."
        )
    return float(value) or None


def read_flag(name: str, value: Any) -> bool:
    """Check a value that is true or false.

    Args:
        name: name of the parameter, for the message.
        value: value of a request.

    Raises:
        ConfigError: the value is of another type.
    """
    if not isinstance(value, bool):
        raise ConfigError(f"`{name}` must be true or false, got {_shorten(value)}.")
    return value


def read_choice(name: str, value: Any, allowed: tuple[str, ...]) -> str:
    """Check a value that is one of a few names.

    Args:
        name: name of the parameter, for the message.
        value: value of a request.
        allowed: allowed values.

    Raises:
        ConfigError: the value is none of them.
    """
    if not isinstance(value, str) or value not in allowed:
        raise ConfigError(f"`{name}` must be one of {', '.join(allowed)}, got {_shorten(value)}.")
    return value


def _shorten(value: Any) -> str:
    """Describe a value of a request in at most 60 characters."""
    text = "nothing" if value is None else repr(value)
    return text if len(text) <= 60 else f"{text[:60]}…"

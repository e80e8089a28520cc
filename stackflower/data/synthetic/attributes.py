"""The attributes of the drawn flowers: what can be asked for, and how a data set is sampled."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "colour": ("red", "orange", "yellow", "pink", "magenta", "purple", "blue", "white"),
    "shape": ("rounded", "pointed", "ruffled", "slender"),
    "centre": ("yellow", "green", "brown", "white"),
    "petals": ("four", "five", "six", "seven", "eight", "nine", "ten"),
    "size": ("small", "medium", "large"),
    "stamens": ("none", "few", "many"),
    "background": ("leaves", "grass", "soil", "sky", "dark"),
    "light": ("bright", "soft", "evening"),
}
"""The attributes and their values, in order; a picture's attribute is an index into its values."""

RESOLUTIONS = (64, 256)
"""The smallest and the largest side of a picture in pixels."""


def key(seed: int, use: int) -> list[int]:
    return [seed % 2**64, use]


def position(name: str, value: str) -> int:
    if name not in ATTRIBUTES:
        raise ValueError(f"There is no attribute {name!r}; the attributes are {', '.join(ATTRIBUTES)}.")
    if value not in ATTRIBUTES[name]:
        raise ValueError(f"{name} cannot be {value!r}; it is one of {', '.join(ATTRIBUTES[name])}.")
    return ATTRIBUTES[name].index(value)


def sample_attributes(count: int, seed: int, fixed: Mapping[str, str] | None = None) -> dict[str, np.ndarray]:
    """Attributes of ``count`` pictures: int64 (N,) indices into ``ATTRIBUTES[name]`` for every name.

    They are uniform and independent of one another; ``fixed`` pins some (name -> value). Row i does not
    depend on ``count``, nor on what is pinned. Raises ValueError for a negative count or for an unknown
    name or value.
    """
    if count < 0:
        raise ValueError(f"The number of pictures cannot be negative, and {count} was asked for.")
    pinned = {name: position(name, value) for name, value in (fixed or {}).items()}
    uniform = np.random.Generator(np.random.Philox(key=key(seed, 1))).random((count, len(ATTRIBUTES)))
    result = {}
    for column, (name, values) in enumerate(ATTRIBUTES.items()):
        result[name] = np.minimum((uniform[:, column] * len(values)).astype(np.int64), len(values) - 1)
        if name in pinned:
            result[name][:] = pinned[name]
    return result


def names(attributes: Mapping[str, np.ndarray], index: int) -> dict[str, str]:
    """The attribute values of picture ``index`` as words, in the order of ``ATTRIBUTES``."""
    return {name: values[int(attributes[name][index])] for name, values in ATTRIBUTES.items()}


def checked(attributes: Mapping[str, np.ndarray], resolution: int) -> dict[str, np.ndarray]:
    low, high = RESOLUTIONS
    if not low <= resolution <= high:
        raise ValueError(f"Pictures are drawn at {low} to {high} pixels a side, not at {resolution}.")
    missing = [name for name in ATTRIBUTES if name not in attributes]
    if missing:
        raise ValueError(f"The pictures' attributes lack {', '.join(missing)}.")
    columns = {name: np.asarray(attributes[name]) for name in ATTRIBUTES}
    if len({column.shape for column in columns.values()}) != 1 or columns["colour"].ndim != 1:
        raise ValueError("Every attribute must be a row of numbers, all of the same length.")
    for name, column in columns.items():
        if column.size and not (column.min() >= 0 and column.max() < len(ATTRIBUTES[name])):
            raise ValueError(f"{name} must lie between 0 and {len(ATTRIBUTES[name]) - 1} in every picture.")
    return columns

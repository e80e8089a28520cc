"""The attributes of the synthetic flowers, and how they are drawn at random."""

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
"""Attributes and their values, in order; an image's attribute is an index into these values."""

RESOLUTIONS = (64, 256)
"""The smallest and the largest side of a square image, in pixels."""


def philox_key(seed: int, use: int) -> list[int]:
    """Return the key of a Philox generator for one use of a seed."""
    return [seed % 2**64, use]


def index_of_value(name: str, value: str) -> int:
    """Return the index of an attribute's value.

    Raises:
        ValueError: the name or the value is unknown.
    """
    if name not in ATTRIBUTES:
        raise ValueError(f"Unknown attribute {name!r}; choose one of {', '.join(ATTRIBUTES)}.")
    if value not in ATTRIBUTES[name]:
        raise ValueError(f"{name} cannot be {value!r}; choose one of {', '.join(ATTRIBUTES[name])}.")
    return ATTRIBUTES[name].index(value)


def sample_attributes(count: int, seed: int, fixed: Mapping[str, str] | None = None) -> dict[str, np.ndarray]:
    """Draw the attributes of images, uniformly and independently of one another.

    Args:
        count: number of images N.
        seed: random seed. Image i gets the same attributes whatever `count` and `fixed` are.
        fixed: values, by attribute, that all images share.

    Returns:
        For each attribute, indices int64 (N,) into ``ATTRIBUTES[name]``.

    Raises:
        ValueError: the count is negative, or a name or value is unknown.
    """
    if count < 0:
        raise ValueError(f"count={count}: the number of images cannot be negative.")
    fixed_values = {name: index_of_value(name, value) for name, value in (fixed or {}).items()}
    uniform = np.random.Generator(np.random.Philox(key=philox_key(seed, 1))).random((count, len(ATTRIBUTES)))
    result = {}
    for column, (name, values) in enumerate(ATTRIBUTES.items()):
        result[name] = np.minimum((uniform[:, column] * len(values)).astype(np.int64), len(values) - 1)
        if name in fixed_values:
            result[name][:] = fixed_values[name]
    return result


def get_values(attributes: Mapping[str, np.ndarray], index: int) -> dict[str, str]:
    """Return the values of an image's attributes, by attribute, in the order of `ATTRIBUTES`."""
    return {name: values[int(attributes[name][index])] for name, values in ATTRIBUTES.items()}


def check_attributes(attributes: Mapping[str, np.ndarray], resolution: int) -> dict[str, np.ndarray]:
    """Return the attributes as arrays, after checking that images of them can be rendered at this resolution.

    Raises:
        ValueError: an attribute is missing or out of range, lengths differ, or the resolution is out of range.
    """
    low, high = RESOLUTIONS
    if not low <= resolution <= high:
        raise ValueError(f"Images can be rendered at {low} to {high} pixels, not at {resolution}.")
    missing = [name for name in ATTRIBUTES if name not in attributes]
    if missing:
        raise ValueError(f"The images' attributes lack {', '.join(missing)}.")
    columns = {name: np.asarray(attributes[name]) for name in ATTRIBUTES}
    if len({column.shape for column in columns.values()}) != 1 or columns["colour"].ndim != 1:
        raise ValueError("Every attribute must be a one-dimensional array, all of the same length.")
    for name, column in columns.items():
        if column.size and not (column.min() >= 0 and column.max() < len(ATTRIBUTES[name])):
            raise ValueError(f"{name} must lie between 0 and {len(ATTRIBUTES[name]) - 1} in every image.")
    return columns

"""The attributes of the synthetic flowers, and their sampling."""

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
"""The attributes and their values, in order; an image's attribute is an index into its values."""

RESOLUTIONS = (64, 256)
"""The smallest and the largest height and width of an image, in pixels."""


def key(seed: int, use: int) -> list[int]:
    """The key of a Philox generator: one for each use of a seed."""
    return [seed % 2**64, use]


def position(name: str, value: str) -> int:
    """The index of an attribute's value. ValueError for an unknown name or value."""
    if name not in ATTRIBUTES:
        raise ValueError(f"There is no attribute {name!r}; the attributes are {', '.join(ATTRIBUTES)}.")
    if value not in ATTRIBUTES[name]:
        raise ValueError(f"{name} cannot be {value!r}; it is one of {', '.join(ATTRIBUTES[name])}.")
    return ATTRIBUTES[name].index(value)


def sample_attributes(count: int, seed: int, fixed: Mapping[str, str] | None = None) -> dict[str, np.ndarray]:
    """Attributes of `count` images: int64 (N,) indices into `ATTRIBUTES[name]` for every name.

    They are uniform and independent of one another; `fixed` sets some (name → value) for all images. Row i depends neither on
    `count` nor on `fixed`. ValueError for a negative count or an unknown name or value.
    """
    if count < 0:
        raise ValueError(f"count = {count}: the number of images cannot be negative.")
    fixed_values = {name: position(name, value) for name, value in (fixed or {}).items()}
    uniform = np.random.Generator(np.random.Philox(key=key(seed, 1))).random((count, len(ATTRIBUTES)))
    result = {}
    for column, (name, values) in enumerate(ATTRIBUTES.items()):
        result[name] = np.minimum((uniform[:, column] * len(values)).astype(np.int64), len(values) - 1)
        if name in fixed_values:
            result[name][:] = fixed_values[name]
    return result


def names(attributes: Mapping[str, np.ndarray], index: int) -> dict[str, str]:
    """The attribute values of image `index` by name, in the order of `ATTRIBUTES`."""
    return {name: values[int(attributes[name][index])] for name, values in ATTRIBUTES.items()}


def checked(attributes: Mapping[str, np.ndarray], resolution: int) -> dict[str, np.ndarray]:
    """The attributes as arrays. ValueError if they or the resolution can't be rendered."""
    low, high = RESOLUTIONS
    if not low <= resolution <= high:
        raise ValueError(f"Images are rendered at {low} to {high} px, not at {resolution}.")
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

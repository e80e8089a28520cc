"""The range of pixels in networks."""

from __future__ import annotations

from torch import Tensor


def scale_pixels(images: Tensor) -> Tensor:
    """Convert pixels uint8 from 0 to 255, in any layout, to floats in `[-1, 1]`, the range of all networks.

    `stackflower.data.images.to_uint8` is the inverse for images.
    """
    return images.float() / 127.5 - 1

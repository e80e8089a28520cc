"""The range of pixels in networks, and back."""

from __future__ import annotations

import torch

from stackflower.data.images import to_uint8
from stackflower.utils.pixels import scale_pixels


def test_every_pixel_is_in_range_and_comes_back() -> None:
    pixels = torch.arange(256, dtype=torch.uint8).expand(2, 3, 1, 256)
    scaled = scale_pixels(pixels)
    assert scaled.min() == -1 and scaled.max() == 1 and scaled.dtype == torch.float32
    assert torch.equal(to_uint8(scaled), pixels.permute(0, 2, 3, 1))

"""Seeded random number generators, and draws from them."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor


def create_rng(seed: int, *path: int, device: torch.device | str = "cpu") -> torch.Generator:
    """Create a random number generator for one purpose.

    Args:
        seed: random seed.
        path: whole numbers that identify the purpose. The same seed and path give the same numbers.
        device: device of the generator.
    """
    digest = hashlib.blake2b(repr((seed, *path)).encode(), digest_size=8).digest()
    generator = torch.Generator(device)
    generator.manual_seed(int.from_bytes(digest, "little") >> 1)
    return generator


def draw_below(count: Tensor, generator: torch.Generator) -> Tensor:
    """Draw, for each entry of `count` (N,), a uniform whole number from 0 to `count` − 1."""
    # Apple's GPUs don't support float64.
    precise = torch.float32 if generator.device.type == "mps" else torch.float64
    draw = torch.rand(len(count), generator=generator, device=generator.device, dtype=precise)
    return (draw * count).long().minimum(count - 1)

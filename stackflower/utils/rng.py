"""Seeded random generators, and draws from them."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor


def seeded(seed: int, *path: int, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator for one purpose: the same (seed, path) gives the same numbers."""
    digest = hashlib.blake2b(repr((seed, *path)).encode(), digest_size=8).digest()
    generator = torch.Generator(device)
    generator.manual_seed(int.from_bytes(digest, "little") >> 1)
    return generator


def below(count: Tensor, generator: torch.Generator) -> Tensor:
    """For each of `count` (N,), a uniform whole number from 0 to `count` − 1."""
    # Apple's GPUs have no float64
    precise = torch.float32 if generator.device.type == "mps" else torch.float64
    draw = torch.rand(len(count), generator=generator, device=generator.device, dtype=precise)
    return (draw * count).long().minimum(count - 1)

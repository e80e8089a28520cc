"""Communication between the processes of a training."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
import torch.distributed.nn.functional as dist_functional
import torch.nn.functional as F
from torch import Tensor


def get_rank_and_size() -> tuple[int, int]:
    """Return the rank of this process and the number of processes, (0, 1) outside distributed training."""
    together = dist.is_available() and dist.is_initialized()
    return (dist.get_rank(), dist.get_world_size()) if together else (0, 1)


def gather(x: Tensor) -> Tensor:
    """Gather the whole batch (processes · N, …) from the shares (N, …), in the order of ranks, with gradients.

    The result is differentiable any number of times. Shares are padded with zeros and summed, because some backends
    can't gather with gradients; meant for small tensors.
    """
    rank, size = get_rank_and_size()
    if size == 1:
        return x
    padded = F.pad(x, [0, 0] * (x.ndim - 1) + [rank * len(x), (size - 1 - rank) * len(x)])
    return dist_functional.all_reduce(padded)


def gather_detached(x: Tensor) -> Tensor:
    """Gather the whole batch (processes · N, …) from equal shares (N, …), in the order of ranks, without gradients."""
    _, size = get_rank_and_size()
    if size == 1:
        return x
    parts = [torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(size)]
    dist.all_gather(parts, x.contiguous())
    return torch.cat(parts)


def gather_strings(texts: Sequence[str], device: torch.device) -> list[str]:
    """Return the strings of all processes, in the order of ranks.

    Args:
        texts: strings of this process, as many as in each other process.
        device: device that the processes communicate on.
    """
    encoded = [
        torch.frombuffer(bytearray(text.encode("utf-8", "surrogatepass") + b"\0"), dtype=torch.uint8) for text in texts
    ]
    lengths = gather_detached(torch.tensor([len(text) for text in encoded], device=device)).tolist()
    padded = torch.zeros(len(texts), max(lengths), dtype=torch.uint8)
    for row, text in zip(padded, encoded, strict=True):
        row[: len(text)] = text
    rows = gather_detached(padded.to(device)).cpu().numpy()
    return [
        row[: length - 1].tobytes().decode("utf-8", "surrogatepass") for row, length in zip(rows, lengths, strict=True)
    ]


def share(total: int, part: tuple[int, int]) -> range:
    """Return the k-th of n nearly equal shares of ``range(total)``, where `part` is (k, n)."""
    return range(total * part[0] // part[1], total * (part[0] + 1) // part[1])

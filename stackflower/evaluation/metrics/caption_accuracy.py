"""Caption accuracy."""

from __future__ import annotations

from torch import Tensor


def share_correct(logits: Tensor, wanted: Tensor, asked: Tensor) -> float:
    """Share of the rows where `asked` (N,) bool in which the largest of `logits` (N, K) is `wanted` (N,)."""
    hits = (logits.argmax(1) == wanted)[asked]
    return float(hits.double().mean()) if len(hits) else float("nan")

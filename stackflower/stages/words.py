"""Pad and join the words of captions, and attend to them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from stackflower.stages.base import Words
from stackflower.utils.distributed import gather_detached, get_rank_and_size


def scale_vectors(vectors: Tensor) -> Tensor:
    """Scale vectors `(…, D)` to a root mean square of 1, so that one learning rate suits every encoder; zeros stay."""
    return F.normalize(vectors.float(), dim=-1) * vectors.shape[-1] ** 0.5


def pad_words(vectors: Sequence[Tensor]) -> Words:
    """Pad the words of captions to the longest caption.

    Args:
        vectors: vectors `(l, D)` of the words of each caption, each with its own l.
    """
    counts = torch.tensor([len(rows) for rows in vectors])
    mask = torch.arange(int(counts.max())) < counts[:, None]
    return Words(torch.nn.utils.rnn.pad_sequence(list(vectors), batch_first=True), mask.to(vectors[0].device))


def join_words(parts: Sequence[Words]) -> Words:
    """Join the captions of all parts, padded to the longest."""
    longest = max(part.mask.shape[1] for part in parts)
    missing = [longest - part.mask.shape[1] for part in parts]
    vectors = [F.pad(part.vectors, (0, 0, 0, count)) for part, count in zip(parts, missing, strict=True)]
    masks = [F.pad(part.mask, (0, count)) for part, count in zip(parts, missing, strict=True)]
    return Words(torch.cat(vectors), torch.cat(masks))


def gather_words(words: Words) -> Words:
    """Gather the words of the captions of all processes, in the order of ranks, without gradients."""
    if get_rank_and_size()[1] == 1:
        return words
    length = words.mask.shape[1]
    longest = int(gather_detached(torch.tensor([length], device=words.mask.device)).max())
    vectors = F.pad(words.vectors.detach(), (0, 0, 0, longest - length))
    mask = F.pad(words.mask, (0, longest - length)).byte()
    return Words(gather_detached(vectors), gather_detached(mask).bool())


def attend_to_words(queries: Tensor, keys: Tensor, mask: Tensor) -> Tensor:
    """Compute how much each position attends to each word: the softmax over words of their inner products.

    Padding has a weight of exactly zero. Products and exponentials are computed in float32.

    Args:
        queries: vectors of positions `(N, M, C)`.
        keys: vectors of words `(N, L, C)`.
        mask: `(N, L)` bool, True for a word; each row has at least one.

    Returns:
        Weights `(N, M, L)`, which sum to 1 over the words, in float32 or wider.
    """
    dtype = torch.promote_types(queries.dtype, torch.float32)
    device = queries.device.type
    # the device "meta", on which the cost of a step is counted, has no autocast
    with torch.autocast("cpu" if device == "meta" else device, enabled=False):
        scores = queries.to(dtype) @ keys.to(dtype).transpose(1, 2)
        return scores.masked_fill(~mask[:, None], -torch.inf).softmax(2)

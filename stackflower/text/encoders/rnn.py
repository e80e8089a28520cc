"""A bidirectional recurrent text encoder over words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from stackflower.errors import ComponentError, DataError
from stackflower.options import Count, Weight
from stackflower.registry import register
from stackflower.text.base import split_words
from stackflower.text.dropped import DEFAULT_REMEDY, Dropped, is_punctuation
from stackflower.text.learned import LearnedEncoder
from stackflower.text.ranking import cosine_ranking_loss

UNKNOWN = 1  # token of a word that is not in the vocabulary; 0 is padding


class BidirectionalGRU(nn.Module):
    """A bidirectional GRU from tokens ``(N, L)`` to the last states of both directions, concatenated ``(N, dim)``.

    Args:
        words: size of the vocabulary, with padding and the unknown word.
        word_dim: size of a word's vector.
        dim: size of the output.
    """

    def __init__(self, words: int, word_dim: int, dim: int):
        super().__init__()
        self.words = nn.Embedding(words, word_dim, padding_idx=0)
        self.forwards = nn.GRU(word_dim, dim - dim // 2, batch_first=True)
        self.backwards = nn.GRU(word_dim, dim // 2, batch_first=True)

    def forward(self, tokens: Tensor) -> Tensor:
        length = (tokens > 0).sum(1).clamp_min(1)
        # each direction starts at its first word, and its state is gathered at its last one; packed sequences would
        # synchronise with the device
        step = torch.arange(tokens.shape[1], device=tokens.device)
        reversed_step = (length[:, None] - 1 - step).clamp_min(0)
        backwards = tokens.gather(1, reversed_step) * (step < length[:, None])
        last = (length - 1)[:, None, None]
        states = []
        for network, order in ((self.forwards, tokens), (self.backwards, backwards)):
            hidden, _ = network(self.words(order))
            states.append(hidden.gather(1, last.expand(-1, 1, hidden.shape[2]))[:, 0])
        return torch.cat(states, 1)


@register("text", "rnn")
class RecurrentEncoder(LearnedEncoder):
    """A bidirectional GRU over words, trained with a cosine ranking loss: the large model of the competition report.

    It is trained with the GAN, by an optimizer of its own (`optimizer.text`), or before it with
    `stackflower train-text`.

    Args:
        dim: size T of the embedding; 256 in the report.
        word_dim: size of a word's vector.
        max_words: maximum number of words, longer captions are cut.
        min_count: minimum number of occurrences; rarer words share the vector of unknown words, which is thereby
            trained.
        margin: margin α of the ranking loss; 0.2 in the report.
        weights: output folder of `stackflower train-text`. The encoder is then frozen.
    """

    def __init__(
        self,
        *,
        dim: Count = 256,
        word_dim: Count = 128,
        max_words: Count = 48,
        min_count: Count = 2,
        margin: Weight = 0.2,
        weights: str | None = None,
    ):
        super().__init__(dim=dim, weights=weights)
        if dim < 2:
            raise ComponentError(f"text.dim = {dim} must be at least 2, one for each direction.")
        self.word_dim, self.max_words, self.min_count, self.margin = word_dim, max_words, min_count, margin
        self.tokens: dict[str, int] = {}

    @property
    def ready(self) -> bool:
        return bool(self.tokens)

    def vocabulary_of(self, captions: Sequence[str]) -> dict[str, Any]:
        counts = Counter(word for caption in captions for word in split_words(caption))
        words = sorted(word for word, count in counts.items() if count >= self.min_count)
        if not words:
            raise DataError(
                f"text.min_count = {self.min_count}: no word of the captions occurs that often ({len(counts):,} "
                f"different words, the most frequent {max(counts.values(), default=0):,} times). Use a smaller value."
            )
        return {"words": words}

    def vocabulary(self) -> dict[str, Any]:
        return {"words": list(self.tokens)}

    def build(self, vocabulary: dict[str, Any]) -> None:
        self.tokens = {word: number for number, word in enumerate(vocabulary["words"], UNKNOWN + 1)}
        self.network = BidirectionalGRU(len(self.tokens) + UNKNOWN + 1, self.word_dim, self.dim)

    def tokenise(self, captions: Sequence[str]) -> Tensor:
        rows = [
            [self.tokens.get(word, UNKNOWN) for word in split_words(caption)][: self.max_words] for caption in captions
        ]
        table = torch.zeros(len(rows), max(map(len, rows), default=1) or 1, dtype=torch.int64)
        for row, tokens in zip(table, rows, strict=True):
            row[: len(tokens)] = torch.tensor(tokens, dtype=torch.int64)
        return table

    def find_dropped(self, captions: Sequence[str]) -> Dropped:
        remedy = DEFAULT_REMEDY
        if not self.frozen:
            remedy = (
                f"Change these captions, use a smaller `text.min_count` ({self.min_count} at present) or a larger "
                f"`text.max_words` ({self.max_words} at present), or another encoder, such as `text=ngram`."
            )
        dropped = Dropped("knows no word of", remedy)
        for caption in captions:
            words = split_words(caption)
            first, rest = words[: self.max_words], words[self.max_words :]
            empty = dropped.drop_unknown(caption, first, self.tokens)
            dropped.drop(
                caption,
                "word",
                f"beyond its maximum of {self.max_words} words and punctuation marks",
                [word for word in rest if not is_punctuation(word)],
            )
            dropped.keep(caption, tuple(map(self.tokens.get, first)), empty)
        return dropped

    def rank(self, image: Tensor, text: Tensor, negative: Tensor, label: Tensor) -> Tensor:
        return cosine_ranking_loss(image, text, negative, label, self.margin)

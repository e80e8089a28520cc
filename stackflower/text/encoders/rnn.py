"""A bidirectional recurrent text encoder over words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stackflower.declarations import Offer
from stackflower.errors import ComponentError, DataError
from stackflower.options import Count, Weight
from stackflower.registry import register
from stackflower.stages.base import Words
from stackflower.stages.words import join_words, scale_vectors
from stackflower.text.base import EncodedWords, split_words
from stackflower.text.dropped import DEFAULT_REMEDY, Dropped, is_punctuation
from stackflower.text.learned import CHUNK, LearnedEncoder
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
        return self.compute_states(tokens)[0]

    def compute_states(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the states of both directions, concatenated.

        Args:
            tokens: tokens ``(N, L)``.

        Returns:
            The last states ``(N, dim)``, and those at each word ``(N, L, dim)``; states in the padding have no meaning.
        """
        length = (tokens > 0).sum(1).clamp_min(1)
        # each direction starts at its first word, and its state is gathered at its last one; packed sequences would
        # synchronise with the device
        step = torch.arange(tokens.shape[1], device=tokens.device)
        reversed_step = (length[:, None] - 1 - step).clamp_min(0)
        backwards = tokens.gather(1, reversed_step) * (step < length[:, None])
        last = (length - 1)[:, None, None]
        forward_states, _ = self.forwards(self.words(tokens))
        backward_states, _ = self.backwards(self.words(backwards))
        final = [
            states.gather(1, last.expand(-1, 1, states.shape[2]))[:, 0] for states in (forward_states, backward_states)
        ]
        in_order = backward_states.gather(1, reversed_step[..., None].expand_as(backward_states))
        return torch.cat(final, 1), torch.cat([forward_states, in_order], 2)


@register("text", "rnn")
class RecurrentEncoder(LearnedEncoder):
    """A bidirectional GRU over words, trained with a cosine ranking loss: the large model of the competition report.

    It is trained with the GAN, by an optimizer of its own (`optimizer.text`), or before it with
    `stackflower train-text`. The vector of a word consists of the states of both directions at the word.

    Args:
        dim: size T of the embedding; 256 in the report.
        word_dim: size of a word's vector.
        max_words: maximum number of words, longer captions are cut.
        min_count: minimum number of occurrences; rarer words share the vector of unknown words, which is thereby
            trained.
        margin: margin α of the ranking loss; 0.2 in the report.
        weights: output folder of `stackflower train-text`. The encoder is then frozen.
        loss: loss that the weights were trained with, which that command records; "damsm" comes with an image encoder
            for the penalty and the extractor of that name.
    """

    has_words = True
    offers = ("words", Offer("image encoder", when={"loss": "damsm"}))

    network: BidirectionalGRU

    def __init__(
        self,
        *,
        dim: Count = 256,
        word_dim: Count = 128,
        max_words: Count = 48,
        min_count: Count = 2,
        margin: Weight = 0.2,
        weights: str | None = None,
        loss: Literal["ranking", "damsm"] = "ranking",
    ):
        super().__init__(dim=dim, weights=weights)
        if loss == "damsm" and weights is None:
            raise ComponentError(
                "text.loss = 'damsm' is a loss of training before the GAN; name the folder that `stackflower "
                "train-text` wrote as `text`."
            )
        if dim < 2:
            raise ComponentError(f"text.dim = {dim} must be at least 2, one for each direction.")
        self.input_dim, self.word_dim = word_dim, dim
        self.max_words, self.min_count, self.margin = max_words, min_count, margin
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
        self.network = BidirectionalGRU(len(self.tokens) + UNKNOWN + 1, self.input_dim, self.dim)

    def tokenise(self, captions: Sequence[str]) -> Tensor:
        rows = [
            [self.tokens.get(word, UNKNOWN) for word in split_words(caption)][: self.max_words] for caption in captions
        ]
        table = torch.zeros(len(rows), max(map(len, rows), default=1) or 1, dtype=torch.int64)
        for row, tokens in zip(table, rows, strict=True):
            row[: len(tokens)] = torch.tensor(tokens, dtype=torch.int64)
        return table

    def embed_with_words(self, tokens: Tensor) -> tuple[Tensor, Words]:
        last, states = self.network.compute_states(tokens)
        mask = tokens > 0
        mask[:, 0] = True  # a caption without words has one state
        return last.float(), Words(scale_vectors(states) * mask[..., None], mask)

    @torch.no_grad()
    def encode_words(self, captions: Sequence[str]) -> EncodedWords:
        self.network.eval()
        device = next(self.network.parameters()).device
        sentences, words = [], []
        for first in range(0, len(captions), CHUNK):
            last, words_of_chunk = self.embed_with_words(self.tokenise(captions[first : first + CHUNK]).to(device))
            sentences.append(F.normalize(last, dim=1).cpu())
            words.append(words_of_chunk.to("cpu"))
        texts = [split_words(caption)[: self.max_words] or [caption] for caption in captions]
        return EncodedWords(torch.cat(sentences), join_words(words), texts)

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

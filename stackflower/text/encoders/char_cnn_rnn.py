"""The char-CNN-RNN text encoder.

Reed et al. (2016), Learning Deep Representations of Fine-Grained Visual Descriptions.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stackflower.errors import ComponentError
from stackflower.options import Count, Weight
from stackflower.registry import register
from stackflower.text.base import split_words
from stackflower.text.dropped import Dropped, is_punctuation
from stackflower.text.learned import LearnedEncoder
from stackflower.text.ranking import joint_embedding_loss

ALPHABET = "abcdefghijklmnopqrstuvwxyz0123456789-,;.!?:'\"/\\|_@#$%^&*~`+=<>()[]{} "


class CharacterNetwork(nn.Module):
    """A network from characters ``(N, L)`` to vectors ``(N, dim)``.

    Temporal convolutions, a recurrent layer whose states are averaged, and a linear layer.

    Args:
        characters: size of the alphabet.
        channels: width of the first convolution.
        dim: size of the vectors.
    """

    def __init__(self, characters: int, channels: int, dim: int):
        super().__init__()
        self.characters = characters
        layers: list[nn.Module] = []
        width = characters
        for wider in (channels, 2 * channels, 2 * channels):
            layers += [nn.Conv1d(width, wider, 4), nn.ReLU(inplace=True), nn.MaxPool1d(3, ceil_mode=True)]
            width = wider
        self.layers = nn.Sequential(*layers)
        self.recurrent = nn.GRU(width, width, batch_first=True)
        self.dense = nn.Linear(width, dim)

    def forward(self, tokens: Tensor) -> Tensor:
        # padding (0) becomes a row of zeros
        one_hot = F.one_hot(tokens, self.characters + 1)[..., 1:].to(self.dense.weight.dtype)
        states, _ = self.recurrent(self.layers(one_hot.transpose(1, 2)).transpose(1, 2))
        return self.dense(states.mean(1))


@register("text", "char-cnn-rnn")
class CharacterEncoder(LearnedEncoder):
    """Convolutions and a recurrent layer over characters, trained with the symmetric joint embedding loss.

    The text encoder of GAN-CLS and StackGAN. The released weights are not used: it is trained on your captions and
    images. Characters outside the alphabet are treated as padding.

    Args:
        dim: size T of the embedding; 1024 in the paper.
        channels: width of the first convolution, half that of the others; 256 in the paper.
        length: maximum number of characters, longer captions are cut; 201 in the paper.
        margin: margin Δ of the loss.
        weights: output folder of `stackflower train-text`. The encoder is then frozen.
    """

    ranks_negatives = False

    def __init__(
        self,
        *,
        dim: Count = 1024,
        channels: Count = 256,
        length: Count = 201,
        margin: Weight = 1.0,
        weights: str | None = None,
    ):
        super().__init__(dim=dim, weights=weights)
        if length < 50:
            raise ComponentError(f"text.length = {length}: the three convolutions need at least 50 characters.")
        self.channels, self.length, self.margin = channels, length, margin
        self.tokens: dict[str, int] = {}

    @property
    def ready(self) -> bool:
        return bool(self.tokens)

    def vocabulary_of(self, captions: Sequence[str]) -> dict[str, Any]:
        return {"alphabet": ALPHABET}

    def vocabulary(self) -> dict[str, Any]:
        return {"alphabet": "".join(self.tokens)}

    def build(self, vocabulary: dict[str, Any]) -> None:
        self.tokens = {character: number for number, character in enumerate(vocabulary["alphabet"], 1)}
        self.network = CharacterNetwork(len(self.tokens), self.channels, self.dim)

    def tokenise(self, captions: Sequence[str]) -> Tensor:
        table = torch.zeros(len(captions), self.length, dtype=torch.int64)
        for row, caption in zip(table, captions, strict=True):
            folded = unicodedata.normalize("NFKC", caption).casefold()[: self.length]
            row[: len(folded)] = torch.tensor([self.tokens.get(character, 0) for character in folded])
        return table

    def find_dropped(self, captions: Sequence[str]) -> Dropped:
        dropped = Dropped(
            "can read no letter or digit of",
            f"Change these captions, use a larger `text.length` ({self.length} at present), or another encoder, such "
            "as `text=ngram`, which reads any script.",
        )
        foreign = re.compile(f"[^{re.escape(''.join(self.tokens))}]")
        for caption in captions:
            folded = unicodedata.normalize("NFKC", caption).casefold()
            first, rest = folded[: self.length], folded[self.length :]
            unreadable = [character for character in foreign.findall(first) if not character.isspace()]
            dropped.drop(caption, "character", "outside its alphabet", unreadable)
            beyond = [word for word in split_words(rest) if not is_punctuation(word)] if rest else []
            dropped.drop(caption, "word", f"beyond its maximum of {self.length} characters", beyond)
            kept = foreign.sub("\0", first).rstrip("\0")  # padding is what the network sees of other characters
            described = any(not is_punctuation(word) for word in split_words(first))
            empty = not re.search("[^\\W_]", kept) and (described or not kept.strip("\0 "))
            dropped.keep(caption, kept, empty)
        return dropped

    def rank(self, image: Tensor, text: Tensor, negative: Tensor, label: Tensor) -> Tensor:
        return joint_embedding_loss(image, text, label, self.margin)

"""Multi-hot encoding of tags."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from stackflower.errors import ConfigError, DataError, RunError
from stackflower.options import Count
from stackflower.registry import register
from stackflower.text.base import compute_digest
from stackflower.text.dropped import Dropped
from stackflower.text.wordwise import WordwiseEncoder
from stackflower.utils.atomic import write_text

TAGS_FILE = "tags.json"


@register("text", "multi-hot")
class MultiHotEncoder(WordwiseEncoder):
    """Multi-hot vectors of captions that are lists of tags, such as "long hair, blue eyes".

    The vector is 1 for each tag of the caption and 0 elsewhere, scaled to unit length. The vocabulary consists of the
    tags of the training captions. A caption without any known tag raises an error. The words of a caption are its known
    tags, each with a one-hot vector.

    Args:
        separator: separator of the tags, such as a comma or a space.
        tags: size T of the embedding. The most frequent tags are used.
    """

    on_host = True

    def __init__(self, *, separator: str = ",", tags: Count = 2048):
        if not separator:
            raise ConfigError("text.separator is empty; it must be the separator of the tags, such as a comma.")
        self.separator, self.max_tags = separator, tags
        self.places: dict[str, int] = {}

    @property
    def dim(self) -> int:  # type: ignore[override]
        """Size T of an embedding."""
        return self.max_tags

    @property
    def word_dim(self) -> int:  # type: ignore[override]
        """Size D of the vector of a tag."""
        return self.max_tags

    @property
    def reads_all(self) -> bool:
        return not self.places

    def _split_tags(self, caption: str) -> list[str]:
        return [tag for part in caption.split(self.separator) if (tag := " ".join(part.split()).casefold())]

    def fit(self, captions: Sequence[str]) -> None:
        if not self.places:
            counts = Counter(tag for caption in captions for tag in self._split_tags(caption))
            ranked = sorted(counts, key=lambda tag: (-counts[tag], tag))[: self.max_tags]
            self.places = {tag: place for place, tag in enumerate(ranked)}

    def encode(self, captions: Sequence[str]) -> Tensor:
        table = torch.zeros(len(captions), self.dim)
        for row, caption in enumerate(captions):
            table[row, [self.places[tag] for tag in self.list_words(caption)]] = 1
        return F.normalize(table, dim=1)

    def list_words(self, caption: str) -> list[str]:
        known = [tag for tag in self._split_tags(caption) if tag in self.places]
        if not known:
            examples = ", ".join(list(self.places)[:10])
            raise DataError(
                f"The caption {caption!r} has none of the {len(self.places):,} tags of the training data, such as "
                f"{examples}."
            )
        return known

    def embed_words(self, words: Sequence[str]) -> Tensor:
        places = torch.tensor([self.places[tag] for tag in words], dtype=torch.int64)
        return F.one_hot(places, self.word_dim).float()

    def find_dropped(self, captions: Sequence[str]) -> Dropped:
        dropped = Dropped(
            "knows no tag of",
            f"Change these captions, use a larger `text.tags` ({self.max_tags:,} at present), or another encoder, such "
            "as `text=ngram`.",
        )
        for caption in captions:
            tags = self._split_tags(caption)
            places = frozenset([self.places[tag] for tag in tags if tag in self.places])
            dropped.drop(caption, "tag", "outside its vocabulary", [tag for tag in tags if tag not in self.places])
            dropped.keep(caption, places, not places)
        return dropped

    def fingerprint(self) -> str:
        letters = torch.tensor(list("\0".join(self.places).encode()), dtype=torch.float32)
        return f"multi-hot-1 {self.separator!r} {self.max_tags} {compute_digest(letters)}"

    def save(self, folder: Path) -> None:
        write_text(folder / TAGS_FILE, json.dumps(list(self.places), ensure_ascii=False))

    def restore(self, folder: Path) -> None:
        try:
            self.places = {
                str(tag): place
                for place, tag in enumerate(json.loads((folder / TAGS_FILE).read_text(encoding="utf-8")))
            }
        except (OSError, ValueError, TypeError) as error:
            raise RunError(f"The tags in {folder} are missing or damaged ({error}). Restore {TAGS_FILE}.") from error

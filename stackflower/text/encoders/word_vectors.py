"""Averaged word vectors from a word2vec or GloVe text file."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from stackflower.errors import DataError, RunError
from stackflower.options import Count
from stackflower.registry import register
from stackflower.text.base import compute_digest, split_words
from stackflower.text.dropped import Dropped
from stackflower.text.wordwise import WordwiseEncoder
from stackflower.utils.atomic import replacing, write_text

FLOAT16_MAX = 65_504  # a run stores the vectors in float16
WORDS_FILE, VECTORS_FILE = "words.json", "vectors.safetensors"


@register("text", "word-vectors")
class WordVectorEncoder(WordwiseEncoder):
    """The mean of the word vectors of a caption, from a word2vec or GloVe text file.

    Words that are not in the file are ignored; a caption without any known word gets the mean of all vectors. Words
    and vectors are saved with the run.

    Args:
        path: text file with one word and its vector per line. A first line with the numbers of words and dimensions, as
            in word2vec's format, is skipped.
        max_words: number of words to read from the start of the file, which lists frequent words first.
    """

    on_host = True
    path_options = ("path",)

    def __init__(self, *, path: str, max_words: Count = 50_000):
        self.path, self.max_words = Path(path).expanduser(), max_words
        self.rows: dict[str, int] = {}
        self.vectors = torch.empty(0, 0)

    @property
    def dim(self) -> int:  # type: ignore[override]
        """Size T of an embedding."""
        if not self.rows:
            self.fit(())
        return self.vectors.shape[1]

    @property
    def word_dim(self) -> int:  # type: ignore[override]
        """Size D of the vector of a word."""
        return self.dim

    def fit(self, captions: Sequence[str]) -> None:
        if self.rows:
            return
        try:
            words, vectors = self._read()
        except FileNotFoundError:
            raise DataError(
                f"{self.path} does not exist. Name word vectors in the text format of word2vec or GloVe with "
                "`text.path=FILE`."
            ) from None
        except (OSError, UnicodeDecodeError, ValueError) as error:
            raise DataError(
                f"{self.path} is not a text file of word vectors ({error}). Each line must hold a word and its vector."
            ) from error
        if not words:
            raise DataError(f"{self.path} contains no word vectors.")
        self.rows = {word: row for row, word in enumerate(words)}
        # rounded to float16, as in a run's folder, so that embeddings are the same after `restore`
        self.vectors = torch.from_numpy(np.stack(vectors)).half().float()

    def _read(self) -> tuple[list[str], list[np.ndarray]]:
        words: dict[str, None] = {}
        vectors: list[np.ndarray] = []
        dim = 0
        with self.path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                parts = re.split(r"[ \t]+", line.strip("\n\r \t"))
                if number == 1 and len(parts) == 2 and all(part.isdecimal() for part in parts):
                    dim = int(parts[1])
                    continue
                dim = dim or len(parts) - 1
                if not 0 < dim < len(parts):
                    expected = f"expected {dim}" if dim else "expected a word and its vector"
                    raise ValueError(f"line {number} has {len(parts) - 1} dimensions, {expected}")
                # entries of GloVe's largest files may have several words: the vector is in the last `dim` columns
                word = " ".join(parts[:-dim]).casefold()
                try:
                    vector = np.array(parts[-dim:], dtype=np.float32)
                except ValueError as error:
                    raise ValueError(f"line {number}: {error}") from error
                if not (np.abs(vector) <= FLOAT16_MAX).all():
                    raise ValueError(
                        f"line {number}, {word!r}, has a value that is not finite or exceeds {FLOAT16_MAX:,}"
                    )
                if word in words:
                    continue
                words[word] = None
                vectors.append(vector)
                if len(words) >= self.max_words:
                    break
        return list(words), vectors

    def encode(self, captions: Sequence[str]) -> Tensor:
        self.fit(())
        unknown = self.vectors.mean(0)
        table = torch.empty(len(captions), self.dim)
        for row, caption in enumerate(captions):
            rows = [self.rows[word] for word in split_words(caption) if word in self.rows]
            table[row] = self.vectors[rows].mean(0) if rows else unknown
        # vectors that cancel out have no direction: treat the caption as unknown
        zero = table.norm(dim=1) < 1e-12
        table[zero] = unknown if unknown.norm() > 1e-12 else torch.ones(self.dim)
        return F.normalize(table, dim=1)

    def list_words(self, caption: str) -> list[str]:
        self.fit(())
        return [word for word in split_words(caption) if word in self.rows] or [caption]

    def embed_words(self, words: Sequence[str]) -> Tensor:
        self.fit(())
        unknown = self.vectors.mean(0)
        return torch.stack([self.vectors[self.rows[word]] if word in self.rows else unknown for word in words])

    def find_dropped(self, captions: Sequence[str]) -> Dropped:
        self.fit(())
        dropped = Dropped(
            "knows no word of",
            "Change these captions, name a file that has vectors of their words (`text.path=FILE`), or use another "
            "encoder, such as `text=ngram`.",
        )
        for caption in captions:
            words = split_words(caption)
            empty = dropped.drop_unknown(caption, words, self.rows)
            # the mean does not depend on the order of the words
            dropped.keep(caption, tuple(sorted(filter(self.rows.__contains__, words))), empty)
        return dropped

    def fingerprint(self) -> str:
        self.fit(())
        letters = torch.tensor(list(" ".join(self.rows).encode()), dtype=torch.float32)
        return f"word-vectors-1 {compute_digest(letters, self.vectors)}"

    def save(self, folder: Path) -> None:
        self.fit(())
        write_text(folder / WORDS_FILE, json.dumps(list(self.rows), ensure_ascii=False))
        with replacing(folder / VECTORS_FILE) as temporary:
            save_file({"vectors": self.vectors.half()}, temporary)

    def restore(self, folder: Path) -> None:
        try:
            words = json.loads((folder / WORDS_FILE).read_text(encoding="utf-8"))
            self.vectors = load_file(folder / VECTORS_FILE)["vectors"].float()
        except (OSError, SafetensorError, ValueError, KeyError) as error:
            raise RunError(f"The word vectors in {folder} are missing or damaged ({error}). Restore them.") from error
        self.rows = {word: row for row, word in enumerate(words)}

"""Look up the words of the captions of a data set by number, in little memory."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from stackflower.stages.base import Words
from stackflower.text.base import TextEncoder
from stackflower.text.learned import LearnedEncoder
from stackflower.text.wordwise import WordTable, WordwiseEncoder
from stackflower.utils.atomic import replacing
from stackflower.utils.cache import compute_key, make_cache_folder, reporting_cache_errors
from stackflower.utils.progress import progress_bar

WordLookup = Callable[[Tensor], Words]
"""Function from caption numbers `(n,)`, int64, to their words, padded to the longest caption of the data set."""


def build_word_lookup(encoder: TextEncoder, captions: Sequence[str], device: torch.device) -> WordLookup:
    """Build the lookup of the words of captions.

    One vector per word is kept as a table; a recurrent encoder runs at each lookup; other words are cached on disk.

    Args:
        encoder: text encoder that has words, fitted.
        captions: captions of the data set.
        device: device of the words.
    """
    if isinstance(encoder, WordwiseEncoder):
        return WordTable(encoder, [encoder.list_words(caption) for caption in captions], device)
    if isinstance(encoder, LearnedEncoder):
        return TokenWords(encoder, captions, device)
    return StoredWords(encoder, captions, device)


class TokenWords:
    """The words of captions by a learned encoder with its weights at the time of the lookup, without gradients.

    Args:
        encoder: text encoder.
        captions: captions of the data set.
        device: device of the encoder during the training.
    """

    def __init__(self, encoder: LearnedEncoder, captions: Sequence[str], device: torch.device):
        self.encoder, self.tokens = encoder, encoder.tokenise(captions).to(torch.int32).to(device)

    @torch.no_grad()
    def __call__(self, captions: Tensor) -> Words:
        return self.encoder.embed_with_words(self.tokens[captions].long())[1]


class StoredWords:
    """The words of captions in a file of the cache, in float16 without padding.

    The file is mapped into memory during a lookup only, so that its pages do not add up in the process. A lookup waits
    for the device, to read the numbers of the captions.

    Args:
        encoder: frozen text encoder.
        captions: captions of the data set; repeated ones are stored once.
        device: device of the words.
        chunk: number of captions per call of the encoder.
    """

    def __init__(self, encoder: TextEncoder, captions: Sequence[str], device: torch.device, chunk: int = 256):
        self.dim, self.device = encoder.word_dim, device
        unique = list(dict.fromkeys(captions))
        position = {caption: row for row, caption in enumerate(unique)}
        self.rows = torch.tensor([position[caption] for caption in captions], dtype=torch.int32)
        digest = hashlib.blake2b("\0".join(unique).encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
        key = compute_key("words", encoder.fingerprint(), len(unique), digest)
        self.path = make_cache_folder("words") / f"{key}.f16"
        counts = self._read_counts()
        counts = self._write(encoder, unique, chunk) if counts is None else counts
        self.ends, self.longest = counts.cumsum(0), int(counts.max())

    @property
    def _counts_path(self) -> Path:
        """The file with the number of words of each caption, which is written last."""
        return self.path.with_suffix(".safetensors")

    def _read_counts(self) -> Tensor | None:
        """Read the number of words of each caption; None unless both files are complete."""
        with suppress(OSError, SafetensorError, KeyError):
            counts = load_file(self._counts_path)["counts"]
            if self.path.stat().st_size == int(counts.sum()) * self.dim * 2:
                return counts
        return None

    def _write(self, encoder: TextEncoder, captions: Sequence[str], chunk: int) -> Tensor:
        """Encode the words of captions to the cache, and return the number of words of each caption."""
        counts = []
        with (
            reporting_cache_errors(self.path.parent),
            progress_bar(f"encoding the words of {len(captions):,} captions", len(captions)) as progress,
            replacing(self.path) as temporary,
            temporary.open("wb") as file,
        ):
            for first in range(0, len(captions), chunk):
                words = encoder.embed_captions(captions[first : first + chunk], words=True).words
                assert words is not None
                counts.append(words.mask.sum(1))
                file.write(words.vectors[words.mask].half().cpu().numpy().tobytes())
                progress(len(words.mask))
        table = torch.cat(counts).cpu()
        with reporting_cache_errors(self.path.parent), replacing(self._counts_path) as temporary:
            save_file({"counts": table}, temporary)
        return table

    def __call__(self, captions: Tensor) -> Words:
        rows = self.rows[captions.cpu()].long()
        ends = self.ends[rows]
        starts = torch.where(rows > 0, self.ends[rows - 1], 0)
        stored = np.memmap(self.path, np.float16, "r", shape=(int(self.ends[-1]), self.dim))
        vectors = torch.zeros(len(rows), self.longest, self.dim)
        for place, (start, end) in enumerate(zip(starts.tolist(), ends.tolist(), strict=True)):
            vectors[place, : end - start] = torch.from_numpy(np.array(stored[start:end], dtype=np.float32))
        mask = torch.arange(self.longest) < (ends - starts)[:, None]
        return Words(vectors, mask).to(self.device)

"""Frozen text encoders from Hugging Face."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from stackflower.errors import DataError, MissingDependency, summarise_error
from stackflower.options import Count
from stackflower.registry import register
from stackflower.stages.words import pad_words, scale_vectors
from stackflower.text.base import EncodedWords, TextEncoder, split_words
from stackflower.text.dropped import Dropped, is_punctuation

TOKENIZER_BATCH = 4096  # captions


@register("text", "huggingface")
class HuggingFaceEncoder(TextEncoder):
    """A Hugging Face text model with mean pooling: the last hidden states, averaged over the tokens of a caption.

    Padding does not count, and the average is scaled to unit length, as in the mean-pooled models of
    sentence-transformers (Reimers & Gurevych 2019). The vector of a word is the mean of the last hidden states of its
    tokens. Setting ``text`` to the id or the folder of a model selects this encoder.

    Args:
        model: id on the Hugging Face hub, such as sentence-transformers/all-MiniLM-L6-v2, or a local folder.
        max_tokens: maximum number of tokens, longer captions are cut. The limit of the model applies if it is lower.
        batch_size: number of captions per forward pass.
    """

    has_words = True
    offers = ("words",)

    def __init__(self, *, model: str, max_tokens: Count = 256, batch_size: Count = 64):
        try:
            from transformers import AutoModel, AutoTokenizer
            from transformers.utils import logging
        except ImportError:
            raise MissingDependency("transformers", "text", f"The text encoder {model}") from None
        logging.set_verbosity_error()
        logging.disable_progress_bar()
        local = Path(model).expanduser()
        self.model_name = str(local.resolve()) if local.is_dir() else model
        try:
            self.tokenizer = AutoTokenizer.from_pretrained(self.model_name)
            # safetensors only: a pickled checkpoint could run code
            self.model = AutoModel.from_pretrained(self.model_name, use_safetensors=True, dtype=torch.float32).eval()
        except Exception as error:  # network, hub, file and format errors have no common class
            raise DataError(
                f"The text encoder {model!r} can't be loaded: {summarise_error(error)} "
                "Give the id of a model on the Hugging Face hub (needs network access), a local folder with "
                "config.json and model.safetensors, or `text=ngram`, which needs no download."
            ) from error
        config = self.model.config
        if getattr(config, "is_encoder_decoder", False):
            self.model = self.model.get_encoder()
        self.model.requires_grad_(False)
        if self.tokenizer.pad_token is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        if getattr(config, "hidden_size", None) is None:
            raise DataError(
                f"{model!r} is not a text encoder: its configuration has no hidden_size. Choose another model."
            )
        self.dim = self.word_dim = int(config.hidden_size)
        limit = getattr(config, "max_position_embeddings", max_tokens)
        self.max_tokens, self.batch_size = min(max_tokens, limit), batch_size

        # detects changed weights in a folder, by 64 values of each parameter; summed on the CPU, since the sum would
        # depend on the device
        self.digest = sum(
            float(parameter.flatten()[:: max(1, parameter.numel() // 64)].double().sum())
            for parameter in self.model.parameters()
        )

    def fingerprint(self) -> str:
        return f"huggingface-1 {Path(self.model_name).name} {self.digest!r} max_tokens={self.max_tokens}"

    def to(self, device: torch.device | str) -> None:
        self.model.to(device)

    def export(self, folder: Path, options: Mapping[str, Any]) -> dict[str, Any]:
        """Write a model that comes from a local folder; one from the Hugging Face hub is downloaded there again."""
        local = Path(self.model_name)
        if not local.is_dir():
            return dict(options)
        self.model.save_pretrained(folder / local.name)
        self.tokenizer.save_pretrained(folder / local.name)
        return {**options, "model": local.name}

    @classmethod
    def import_options(cls, folder: Path, options: Mapping[str, Any]) -> dict[str, Any]:
        name = str(options.get("model"))
        is_exported = "/" not in name and (folder / name).is_dir()
        return {**options, "model": str(folder / name) if is_exported else name}

    def find_dropped(self, captions: Sequence[str]) -> Dropped:
        """Find what the tokenizer drops: words that it does not know, and words beyond the maximum length."""
        dropped = Dropped(
            "knows no word of",
            "Change these captions, choose a model that knows their language, or use another encoder, such as "
            "`text=ngram`.",
        )
        limit, unknown = self.max_tokens - self.tokenizer.num_special_tokens_to_add(), self.tokenizer.unk_token_id

        @cache
        def is_blank(token: int) -> bool:
            """Return whether a token is a mark of a word boundary, punctuation or the unknown token."""
            text = str(self.tokenizer.convert_ids_to_tokens(token)).strip("▁Ġ#")
            return token == unknown or all(map(is_punctuation, text))

        for first in range(0, len(captions), TOKENIZER_BATCH):
            batch = list(captions[first : first + TOKENIZER_BATCH])
            encoded = self.tokenizer(
                batch, add_special_tokens=False, return_attention_mask=False, return_token_type_ids=False
            )
            for caption, tokens in zip(batch, encoded["input_ids"], strict=True):
                kept = tokens[:limit]
                if unknown in kept or len(tokens) > limit:
                    parts, rest = self._split_caption(caption, limit)
                    missing = [part for token, part in zip(kept, parts, strict=False) if token == unknown]
                    dropped.drop(caption, "word", "outside its vocabulary", missing)
                    beyond = [word for word in split_words(rest) if not is_punctuation(word)]
                    dropped.drop(caption, "word", f"beyond its maximum of {self.max_tokens} tokens", beyond)
                readable = [token for token in kept if token != unknown]
                blank = all(map(is_blank, kept))
                described = blank and any(not is_punctuation(word) for word in split_words(caption))
                dropped.keep(caption, tuple(kept), blank and (described or not readable))
        return dropped

    def _split_caption(self, caption: str, limit: int) -> tuple[list[str], str]:
        """Return the part of a caption that each of its first tokens stands for, and the text of the others.

        A slow tokenizer does not say where its tokens are, so the parts are the names of the tokens.
        """
        if not self.tokenizer.is_fast:
            names = self.tokenizer.tokenize(caption)
            return names[:limit], self.tokenizer.convert_tokens_to_string(names[limit:])
        encoded = self.tokenizer(caption, add_special_tokens=False, return_offsets_mapping=True)
        spans = encoded["offset_mapping"]
        rest = caption[spans[limit][0] :] if len(spans) > limit else ""
        return [caption[start:end].strip() for start, end in spans[:limit]], rest

    @torch.no_grad()
    def encode(self, captions: Sequence[str]) -> Tensor:
        table = torch.empty(len(captions), self.dim)
        for rows, tokens, hidden in self._run_model(captions):
            table[rows] = _average_tokens(tokens, hidden)
        return table

    @torch.no_grad()
    def encode_words(self, captions: Sequence[str]) -> EncodedWords:
        table = torch.empty(len(captions), self.dim)
        vectors, texts = [torch.empty(0)] * len(captions), [[""]] * len(captions)
        for rows, tokens, hidden in self._run_model(captions):
            table[rows] = _average_tokens(tokens, hidden)
            for place, row in enumerate(rows):
                places, texts[row] = self._group_tokens(tokens, place, captions[row])
                states, numbers = hidden[place, places[:, 0]].cpu(), places[:, 1]
                sums = torch.zeros(len(texts[row]), self.dim).index_add_(0, numbers, states)
                vectors[row] = scale_vectors(sums / torch.bincount(numbers)[:, None])
        return EncodedWords(table, pad_words(vectors), texts)

    def _run_model(self, captions: Sequence[str]) -> Iterator[tuple[list[int], Any, Tensor]]:
        """Yield the rows of captions of similar length, which need little padding, their tokens and hidden states."""
        order = sorted(range(len(captions)), key=lambda row: len(captions[row]))
        for first in range(0, len(order), self.batch_size):
            rows = order[first : first + self.batch_size]
            tokens = self.tokenizer(
                [captions[row] for row in rows],
                padding=True,
                truncation=True,
                max_length=self.max_tokens,
                return_tensors="pt",
            ).to(self.model.device)
            yield rows, tokens, self.model(**tokens).last_hidden_state.float()

    def _group_tokens(self, tokens: Any, place: int, caption: str) -> tuple[Tensor, list[str]]:
        """Group the tokens of a caption by word, without special tokens.

        A slow tokenizer does not say which tokens form a word, so each token is one there. A caption without words has
        one word, which consists of all its tokens.

        Args:
            tokens: tokens of a batch.
            place: row of the caption in the batch.
            caption: the caption.

        Returns:
            Place of each token in the row and number of its word, ``(k, 2)``, and the words as strings.
        """
        used = tokens["attention_mask"][place].nonzero()[:, 0].tolist()
        special = set(self.tokenizer.all_special_ids) - {self.tokenizer.unk_token_id}
        identifiers = tokens["input_ids"][place].tolist()
        if self.tokenizer.is_fast:
            word_of = tokens.word_ids(place)
            spans = {word_of[i]: tokens.word_to_chars(place, word_of[i]) for i in used if word_of[i] is not None}
            names = {word: caption[span.start : span.end].strip() for word, span in spans.items()}
        else:
            word_of = [None if token in special else i for i, token in enumerate(identifiers)]
            kept = [i for i in used if word_of[i] is not None]
            names = {i: str(self.tokenizer.convert_ids_to_tokens(identifiers[i])).strip("▁Ġ#") for i in kept}
        if not names:
            return torch.tensor([[i, 0] for i in used]), [caption]
        number_of = {word: number for number, word in enumerate(names)}
        places = [[i, number_of[word_of[i]]] for i in used if word_of[i] is not None]
        return torch.tensor(places), list(names.values())


def _average_tokens(tokens: Any, hidden: Tensor) -> Tensor:
    """Average hidden states ``(N, L, dim)`` over tokens to ``(N, dim)`` of unit length, on the CPU."""
    mask = tokens["attention_mask"][..., None].float()
    return F.normalize((hidden * mask).sum(1) / mask.sum(1).clamp_min(1e-9), dim=1).cpu()

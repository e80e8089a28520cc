"""Checks of captions for a text encoder: what it drops, and captions that it can't tell apart.

The rules, for the distinct captions of a data set:

- A caption that the encoder drops entirely is an error: all such captions have the same, meaningless embedding.
- Captions with the same words, in any case, order and punctuation, may share an embedding. Captions with different
  words that share one are an error if they are more than `MAX_CONFUSED` (1%) of the captions, otherwise a warning.
- Any other loss is a warning: letters outside the alphabet, words outside the vocabulary, words beyond the maximum
  length.
- A caption that more than `MAX_SHARED` (90%) of the images share is a warning.

The same checks apply to captions to generate images for, but captions that share an embedding are only a warning.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stackflower import registry
from stackflower.data.rows.checks import LONE_SURROGATE, MAX_WORDS
from stackflower.data.source import SPLITS, Source
from stackflower.errors import ConfigError, DataError
from stackflower.text.base import TextEncoder, split_words
from stackflower.text.dropped import Dropped, Loss, is_punctuation

logger = logging.getLogger(__name__)

MAX_CONFUSED = 0.01  # share of captions that may share an embedding with a caption of other words
MAX_SHARED = 0.9  # share of the images that may have the same caption without a warning
CHUNK = 1024  # number of captions to embed at a time
EXAMPLES = 5  # examples in a message
EXAMPLE_LENGTH = 80  # characters


@dataclass(frozen=True)
class Findings:
    """Results of the checks of captions.

    Attributes:
        problems: reasons why the captions can't be used, one sentence each.
        warnings: losses, one sentence each.
        empty: captions that the encoder drops entirely.
    """

    problems: list[str]
    warnings: list[str]
    empty: list[str]


def check_captions(
    encoder: TextEncoder,
    captions: Sequence[str],
    embed: Callable[[], Tensor] | None = None,
    max_confused: float = MAX_CONFUSED,
) -> Findings:
    """Check whether an encoder can represent captions and tell them apart.

    The docstring of this module states the rules.

    Args:
        encoder: text encoder, after `fit` or `restore`.
        captions: captions; repeated ones are checked once.
        embed: function that returns the embeddings ``(N, T)`` of the captions, if they are needed anyway.
        max_confused: share of captions that may share an embedding with a caption of other words.

    Returns:
        Problems and warnings.

    Raises:
        DataError: the encoder's files can't be used.
    """
    rows = {caption: row for row, caption in enumerate(captions)}
    unique = list(rows)
    dropped = encoder.find_dropped(unique)
    if not dropped.kept and not dropped.empty:
        if embed is None:
            chunks = (encoder(unique[first : first + CHUNK]) for first in range(0, len(unique), CHUNK))
            codes = [code for chunk in chunks for code in _hash_rows(chunk).tolist()]
        else:
            codes = _hash_rows(embed())[list(rows.values())].tolist()
        for caption, code in zip(unique, codes, strict=True):
            dropped.keep(caption, code, code == 0)
    name = f"The text encoder {registry.find_name('text', type(encoder))}"
    losses = [f"{name} {_describe_loss(loss, len(unique))}" for loss in dropped.losses.values()]
    findings = Findings([], losses, dropped.empty)
    if dropped.empty:
        findings.problems.append(
            f"{name} {dropped.lacks} {_count(len(dropped.empty), len(unique))}: {_quote(dropped.empty)}. "
            f"{dropped.remedy}"
        )
    confused = find_confused(unique, dropped)
    if confused:
        count = sum(map(len, confused))
        sentence = (
            f"{name} gives {_count(count, len(unique))} the same embedding as a caption with different words, so "
            f"images can't show the difference: {_quote_pairs(confused)}."
        )
        if count > max_confused * len(unique):
            findings.problems.append(f"{sentence} {dropped.remedy}")
        else:
            findings.warnings.append(sentence)
    return findings


def find_confused(captions: Sequence[str], dropped: Dropped) -> list[list[str]]:
    """Group captions with different words that the encoder can't tell apart.

    Captions that differ only in case, order or punctuation are not grouped, nor are captions that are dropped entirely.

    Args:
        captions: distinct captions.
        dropped: the parts of each caption that the encoder keeps.
    """
    empty, seen, groups = set(dropped.empty), set[Hashable](), dict[Hashable, list[str]]()
    for kept in dropped.kept:
        if kept in seen:
            groups[kept] = []
        seen.add(kept)
    for caption, kept in zip(captions, dropped.kept, strict=True):
        if kept in groups:
            groups[kept].append(caption)
    confused = []
    for group in groups.values():
        if group[0] not in empty:
            words = {_find_words(caption): caption for caption in reversed(group)}
            if len(words) > 1:
                # one caption per set of words comes first, for the examples in messages
                confused.append(list(dict.fromkeys([*reversed(words.values()), *group])))
    return confused


def find_shared_caption(captions: Iterable[Sequence[str]]) -> str | None:
    """Return a warning if more than 90% of the images have the same caption; None otherwise.

    Args:
        captions: captions of each image.
    """
    counts, total = Counter[str](), 0
    for texts in captions:
        total += 1
        if len(texts) == 1 or len(set(texts)) == 1:
            counts[texts[0]] += 1
    if total < 2 or not counts:
        return None
    caption, count = counts.most_common(1)[0]
    if count <= MAX_SHARED * total:
        return None
    images = f"All {total:,} images have" if count == total else f"{count:,} of {total:,} images have"
    return (
        f"{images} the same caption, {_shorten(caption)!r}, so the text will hardly affect the generated images. "
        "Describe each image individually."
    )


def report_captions(
    encoder: TextEncoder, captions: Sequence[Sequence[str]], embed: Callable[[], Tensor] | None = None
) -> None:
    """Check the captions of training images, and log warnings.

    Args:
        encoder: text encoder, after `fit` or `restore`.
        captions: captions of each image.
        embed: function that returns the embeddings of all captions, if they are needed anyway.

    Raises:
        DataError: the encoder can't represent some captions, or can't tell too many of them apart.
    """
    shared = find_shared_caption(captions)
    findings = check_captions(encoder, [caption for texts in captions for caption in texts], embed)
    for warning in [*findings.warnings, *([shared] if shared else [])]:
        logger.warning("%s", warning)
    if findings.problems:
        raise DataError("\n".join(findings.problems))


def check_source_captions(source: Source, text: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """Check the captions of a data set for a text encoder, which is first fitted to the training captions.

    Args:
        source: data set.
        text: name and options of the text encoder.

    Returns:
        Problems of the training captions; and notes, which are warnings and problems of the captions of other splits.
        Unreadable splits are skipped, because the check of the data set reports them.

    Raises:
        ComponentError: the encoder or one of the options does not exist.
        DataError: the encoder's files can't be used.
    """
    encoder: TextEncoder = registry.create("text", text["name"], **{k: v for k, v in text.items() if k != "name"})
    problems, notes, fitted = list[str](), list[str](), False
    for split in (split for split in SPLITS if split in source.splits()):
        captions = None
        with suppress(DataError):
            captions = source.rows(split).captions
        if captions is None:
            continue
        flat = [caption for texts in captions for caption in texts]
        if split == "train" or (not fitted and not encoder.reads_all):
            with torch.random.fork_rng(devices=[]):
                encoder.fit(flat)
            fitted = True
        if not fitted:
            continue
        shared, findings = find_shared_caption(captions), check_captions(encoder, flat)
        serious = problems if split == "train" else notes
        serious += [f"{split}: {sentence}" for sentence in findings.problems]
        notes += [f"{split}: {sentence}" for sentence in [*findings.warnings, *([shared] if shared else [])]]
    if fitted:
        notes.append(f"The captions were checked for the text encoder {text['name']}; select another with `text`.")
    return problems, notes


def clean_captions(captions: Sequence[str]) -> list[str]:
    """Check captions given by the user, by the rules for captions of data, and collapse their whitespace.

    Args:
        captions: one or more captions.

    Returns:
        The captions, with single spaces between words.

    Raises:
        ConfigError: `captions` is empty, or a caption is empty, too long or not valid Unicode.
    """
    if not captions:
        raise ConfigError('No caption was given; give one or more sentences, such as "a red flower".')
    for number, caption in enumerate(captions, 1):
        if not caption.strip():
            raise ConfigError(f"Caption {number} is empty; describe what the image should show.")
        if not caption.isascii() and LONE_SURROGATE.search(caption):
            raise ConfigError(f"Caption {number} is not valid Unicode (half of a surrogate pair); encode it as UTF-8.")
        count = len(caption.split())
        if count > MAX_WORDS:
            raise ConfigError(f"Caption {number} has {count:,} words; at most {MAX_WORDS:,} are allowed.")
    return [" ".join(caption.split()) for caption in captions]


def report_given_captions(encoder: TextEncoder, captions: Sequence[str]) -> None:
    """Check captions to generate images for, and log warnings about what the encoder drops.

    Args:
        encoder: text encoder, after `fit` or `restore`.
        captions: captions.

    Raises:
        DataError: the encoder drops a caption entirely.
    """
    for warning in check_given_captions(encoder, captions):
        logger.warning("%s", warning)


def check_given_captions(encoder: TextEncoder, captions: Sequence[str]) -> list[str]:
    """Check captions to generate images for, and return warnings about what the encoder drops.

    Args:
        encoder: text encoder, after `fit` or `restore`.
        captions: captions.

    Returns:
        One sentence per loss; words outside the vocabulary are named.

    Raises:
        DataError: the encoder drops a caption entirely.
    """
    findings = check_captions(encoder, captions, max_confused=1)
    if findings.empty:
        encoder.encode(findings.empty[:1])  # an encoder that raises an error explains more
    if findings.problems:
        raise DataError("\n".join(findings.problems))
    return findings.warnings


def _find_words(caption: str) -> frozenset[str]:
    return frozenset(word for word in split_words(caption) if not is_punctuation(word))


def _hash_rows(table: Tensor) -> np.ndarray:
    """Hash each row of a table to int64; equal rows have equal hashes, and a row of zeros has the hash 0."""
    weights = np.random.default_rng(0).integers(1, 2**62, table.shape[1]) | 1
    return np.concatenate(
        [
            # adding 0 turns -0 into 0
            (chunk.float().cpu().numpy() + np.float32(0)).view(np.int32).astype(np.int64) @ weights
            for chunk in table.split(CHUNK)
        ]
    )


def _describe_loss(loss: Loss, total: int) -> str:
    parts, plural = list(loss.parts), "s" if len(loss.parts) > 1 else ""
    more = ", …" if len(parts) > EXAMPLES else ""
    examples = ", ".join(_shorten(part) for part in parts[:EXAMPLES]) + more
    sentence = f"drops {len(parts):,} {loss.noun}{plural} {loss.reason} ({examples})"
    if total == 1:
        return f"{sentence}."
    return f"{sentence} in {_count(len(loss.captions), total)}, such as {_shorten(loss.captions[0])!r}."


def _count(count: int, total: int) -> str:
    return f"{count:,} of {total:,} distinct captions" if total > 1 else "the caption"


def _shorten(text: str) -> str:
    return text if len(text) <= EXAMPLE_LENGTH else f"{text[:EXAMPLE_LENGTH]}…"


def _shorten_pair(one: str, other: str) -> tuple[str, str]:
    """Shorten two captions, and keep their first difference visible if possible."""
    pairs = enumerate(zip(one, other, strict=False))
    same = next((place for place, (a, b) in pairs if a != b), min(len(one), len(other)))
    start = same - EXAMPLE_LENGTH // 4
    if start <= 0 or len(one) <= EXAMPLE_LENGTH >= len(other):
        return _shorten(one), _shorten(other)
    return f"…{_shorten(one[start:])}", f"…{_shorten(other[start:])}"


def _quote(captions: Sequence[str]) -> str:
    more = f" and {len(captions) - EXAMPLES:,} more" if len(captions) > EXAMPLES else ""
    return ", ".join(repr(_shorten(caption)) for caption in captions[:EXAMPLES]) + more


def _quote_pairs(groups: Sequence[Sequence[str]]) -> str:
    pairs = [" and ".join(map(repr, _shorten_pair(group[0], group[1]))) for group in groups[:EXAMPLES]]
    return "; ".join([*pairs, "…"] if len(groups) > EXAMPLES else pairs)

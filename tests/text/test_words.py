"""The words of captions: every encoder that has them, padding, and the lookups of the training."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from test_text import minilm
from tiny_parts import CAPTIONS, make_encoder

from stackflower import registry
from stackflower.declarations import offers_trait
from stackflower.errors import ConfigError
from stackflower.stages.base import Words
from stackflower.stages.words import join_words, pad_words
from stackflower.text.base import TextEncoder
from stackflower.text.encoders.rnn import RecurrentEncoder
from stackflower.text.words import StoredWords, build_word_lookup

ENCODERS = sorted(set(registry.list_parts("text")) - {"huggingface"})
WITH_WORDS = [name for name in ENCODERS if registry.get("text", name).has_words]
CPU = torch.device("cpu")


def same_words(one: Words, other: Words, tolerance: float = 0.0) -> None:
    """Two captions have the same words, whatever their padding."""
    for words, others in ((one, other), (other, one)):
        longest = int(others.mask.sum(1).max())
        assert not words.mask[:, longest:].any() and not words.vectors[~words.mask].any()
    length = min(one.mask.shape[1], other.mask.shape[1])
    assert torch.equal(one.mask[:, :length], other.mask[:, :length])
    assert torch.allclose(one.vectors[:, :length], other.vectors[:, :length], rtol=0, atol=tolerance)


def captions_for(name: str) -> list[str]:
    return CAPTIONS[:4] if name == "multi-hot" else [*CAPTIONS, "_", "a red flower , with blue petals"]


@pytest.mark.parametrize("name", WITH_WORDS)
def test_the_words_of_a_caption_have_one_vector_each(name: str, tmp_path: Path) -> None:
    encoder, captions = make_encoder(name, tmp_path), captions_for(name)
    sentence, words, texts = encoder.encode_words(captions)
    assert torch.equal(sentence, encoder.encode(captions)), "the sentence is the same as without words"
    assert words.vectors.shape == (len(captions), max(map(len, texts)), encoder.word_dim)
    assert words.mask.sum(1).tolist() == [len(text) for text in texts] and words.mask[:, 0].all()
    assert torch.allclose(words.vectors[words.mask].square().mean(1), torch.ones(int(words.mask.sum())), atol=1e-5)
    assert not words.vectors[~words.mask].any()
    same_words(encoder.encode_words(captions[:2]).words, words.take(slice(0, 2)), 1e-6)
    if name != "multi-hot":
        assert texts[0] == ["a", "red", "flower"]
        assert not torch.equal(words.vectors[0, 1], words.vectors[0, 2])


@pytest.mark.parametrize("name", ENCODERS)
def test_an_encoder_offers_words_or_says_that_it_has_none(name: str, tmp_path: Path) -> None:
    encoder = make_encoder(name, tmp_path)
    assert encoder.has_words == offers_trait(encoder, "words") == (encoder.word_dim > 0)
    if not encoder.has_words:
        with pytest.raises(ConfigError, match="use `text=ngram`"):
            encoder.encode_words(["a red flower"])


@pytest.mark.parametrize("name", WITH_WORDS)
def test_words_survive_a_file(name: str, tmp_path: Path) -> None:
    encoder, captions = make_encoder(name, tmp_path), captions_for(name)
    (tmp_path / "kept").mkdir()
    encoder.save(tmp_path / "kept")
    path = {"path": str(tmp_path / "vectors.txt")} if name == "word-vectors" else {}
    again = registry.create("text", name, **path)
    again.restore(tmp_path / "kept")
    same_words(again.encode_words(captions).words, encoder.encode_words(captions).words, 1e-6)


@pytest.mark.parametrize("name", WITH_WORDS)
def test_a_lookup_by_number_gives_the_words_of_a_caption(name: str, tmp_path: Path) -> None:
    encoder, captions = make_encoder(name, tmp_path), captions_for(name)
    lookup = build_word_lookup(encoder, captions, CPU)
    numbers = torch.tensor([2, 0, 2, 3])
    same_words(lookup(numbers), encoder.encode_words([captions[number] for number in numbers]).words, 1e-6)
    assert lookup(numbers[:1]).mask.shape == lookup(numbers[1:2]).mask.shape, "padded to the longest of all"


def test_stored_words_are_those_of_the_encoder_and_are_read_again(tmp_path: Path) -> None:
    encoder = make_encoder("rnn", tmp_path)
    captions = captions_for("rnn")
    stored = StoredWords(encoder, captions, CPU, chunk=3)
    numbers = torch.tensor([6, 0, 4, 7, 0])
    expected = encoder.encode_words([captions[number] for number in numbers]).words
    same_words(stored(numbers), expected, 2e-3)

    class Silent(RecurrentEncoder):
        def encode_words(self, captions):  # type: ignore[no-untyped-def]
            raise AssertionError("the words are in the cache")

    encoder.__class__ = Silent
    encoder.fingerprint = lambda: RecurrentEncoder.fingerprint(encoder).replace("Silent", "RecurrentEncoder")  # type: ignore[method-assign]
    again = StoredWords(encoder, captions, CPU)
    assert all(map(torch.equal, again(numbers), stored(numbers)))
    again.path.write_bytes(again.path.read_bytes()[:-2])
    with pytest.raises(AssertionError, match="in the cache"):  # a damaged file is written again
        StoredWords(encoder, captions, CPU)


def test_a_state_of_a_recurrent_encoder_does_not_depend_on_the_padding(tmp_path: Path) -> None:
    encoder = make_encoder("rnn", tmp_path)
    assert isinstance(encoder, RecurrentEncoder)
    tokens = encoder.tokenise(["a red flower"])
    longer = torch.nn.functional.pad(tokens, (0, 5))
    with torch.no_grad():
        same_words(encoder.embed_with_words(tokens)[1], encoder.embed_with_words(longer)[1], 1e-5)
        last, states = encoder.network.compute_states(longer)
    half = encoder.dim - encoder.dim // 2
    assert torch.allclose(last[:, :half], states[:, 2, :half]) and torch.allclose(last[:, half:], states[:, 0, half:])


def test_words_that_were_joined_are_padded_to_the_longest() -> None:
    rows = [torch.randn(length, 3) for length in (2, 5, 1)]
    whole = pad_words(rows)
    joined = join_words([pad_words(rows[:1]), pad_words(rows[1:])])
    assert all(map(torch.equal, joined, whole)) and whole.mask.sum(1).tolist() == [2, 5, 1]
    assert [words.mask.shape for words in whole.take(torch.tensor([2, 0])).chunk(2)] == [(1, 5), (1, 5)]


@pytest.mark.extras
def test_hidden_states_are_merged_into_words() -> None:
    encoder: TextEncoder = registry.create("text", "huggingface", model=minilm(), batch_size=2)
    captions = ["a red rose", "an agapanthus, unbelievablysupercalifragilistic", "红色的花"]
    sentence, words, texts = encoder.encode_words(captions)
    assert torch.equal(sentence, encoder.encode(captions))
    assert texts[:2] == [["a", "red", "rose"], ["an", "agapanthus", ",", "unbelievablysupercalifragilistic"]]
    tokens = encoder.tokenizer(captions[1], return_tensors="pt")  # type: ignore[attr-defined]
    hidden = encoder.model(**tokens).last_hidden_state[0]  # type: ignore[attr-defined]
    places = [place for place, word in enumerate(tokens.word_ids()) if word == 1]
    assert len(places) > 1
    expected = torch.nn.functional.normalize(hidden[places].mean(0), dim=0) * encoder.word_dim**0.5
    assert torch.allclose(words.vectors[1, 1], expected, atol=1e-4)
    lookup = build_word_lookup(encoder, captions, CPU)
    same_words(lookup(torch.tensor([2, 1])), encoder.encode_words([captions[2], captions[1]]).words, 5e-3)

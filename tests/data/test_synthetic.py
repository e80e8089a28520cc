"""The drawn flowers and their captions."""

from __future__ import annotations

import re
from collections import Counter

import numpy as np
import pytest
import torch

from stackflower.data.synthetic.attributes import ATTRIBUTES, get_values, sample_attributes
from stackflower.data.synthetic.draw import draw
from stackflower.data.synthetic.grammar import WORDS, captions


def _rows(attributes: dict[str, np.ndarray], index: slice | list[int]) -> dict[str, np.ndarray]:
    return {name: column[index] for name, column in attributes.items()}


def test_sampled_attributes_are_uniform_and_independent() -> None:
    attributes = sample_attributes(20_000, seed=3)
    assert list(attributes) == list(ATTRIBUTES)
    for name, values in ATTRIBUTES.items():
        assert attributes[name].dtype == np.int64
        share = np.bincount(attributes[name], minlength=len(values)) / 20_000
        assert share.shape == (len(values),)
        assert np.abs(share - 1 / len(values)).max() < 0.02
    table = np.corrcoef(np.stack(list(attributes.values())))
    assert np.abs(table - np.eye(len(table))).max() < 0.03


def test_sampled_rows_do_not_depend_on_the_number_or_on_what_is_pinned() -> None:
    few, many = sample_attributes(5, seed=1), sample_attributes(50, seed=1)
    pinned = sample_attributes(50, seed=1, fixed={"colour": "blue"})
    for name in ATTRIBUTES:
        assert np.array_equal(few[name], many[name][:5])
        if name != "colour":
            assert np.array_equal(pinned[name], many[name])
    assert all(get_values(pinned, i)["colour"] == "blue" for i in range(50))
    assert not np.array_equal(sample_attributes(50, seed=2)["colour"], many["colour"])


def test_pictures_are_the_same_however_many_are_drawn_and_by_how_many_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    attributes = sample_attributes(21, seed=5)
    pictures = draw(attributes, 64, seed=9)
    assert pictures.shape == (21, 64, 64, 3)
    assert pictures.dtype == np.uint8
    assert np.array_equal(draw(attributes, 64, seed=9), pictures)
    for count in (1, 8, 13):
        assert np.array_equal(draw(_rows(attributes, slice(count)), 64, seed=9), pictures[:count])
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    assert np.array_equal(draw(attributes, 64, seed=9), pictures)
    assert not np.array_equal(draw(attributes, 64, seed=10), pictures)


def test_a_picture_depends_on_its_own_attributes_alone() -> None:
    attributes = sample_attributes(10, seed=0)
    pictures = draw(attributes, 64, seed=0)
    changed = _rows(attributes, slice(None))
    changed["colour"] = attributes["colour"].copy()
    changed["colour"][4] = (attributes["colour"][4] + 1) % len(ATTRIBUTES["colour"])
    differs = (draw(changed, 64, seed=0) != pictures).any(axis=(1, 2, 3))
    assert differs.tolist() == [i == 4 for i in range(10)]


def test_a_flower_is_the_same_at_all_resolutions() -> None:
    attributes = sample_attributes(16, seed=2)
    small = draw(attributes, 64, seed=2).astype(np.float32)
    for factor in (2, 4):
        side = 64 * factor
        large = draw(attributes, side, seed=2).astype(np.float32)
        shrunk = large.reshape(16, 64, factor, 64, factor, 3).mean(axis=(2, 4))
        apart = np.abs(shrunk - small).mean(axis=(1, 2, 3))
        assert apart.max() < 6
        # another flower is far away
        assert np.abs(shrunk[1:] - small[:-1]).mean() > 5 * apart.mean()


def test_every_value_of_every_attribute_changes_the_picture() -> None:
    start = dict.fromkeys(ATTRIBUTES, 0)
    for name, values in ATTRIBUTES.items():
        pictures = []
        for value in range(len(values)):
            row = {key: np.array([index]) for key, index in (start | {name: value}).items()}
            pictures.append(draw(row, 64, seed=4)[0].astype(np.float32))
        for first in range(len(values)):
            for second in range(first):
                apart = np.abs(pictures[first] - pictures[second])
                assert apart.mean() > 0.6, (name, values[first], values[second])
                assert (apart.max(axis=-1) > 16).sum() > 40, (name, values[first], values[second])


@pytest.mark.parametrize("resolution", [64, 76, 129, 256])
def test_pictures_are_filled_and_have_contrast(resolution: int) -> None:
    pictures = draw(sample_attributes(3, seed=8), resolution, seed=8)
    assert pictures.shape == (3, resolution, resolution, 3)
    assert (pictures.std(axis=(1, 2, 3)) > 12).all()
    assert (pictures.max(axis=(1, 2, 3)) > 120).all()


def test_progress_counts_the_pictures() -> None:
    told: list[int] = []
    draw(sample_attributes(11, seed=0), 64, seed=0, progress=told.append)
    assert sum(told) == 11
    assert draw(sample_attributes(0, seed=0), 64, seed=0, progress=told.append).shape == (0, 64, 64, 3)


def test_wrong_attributes_are_refused_in_a_sentence() -> None:
    good = sample_attributes(2, seed=0)
    lacking = {name: column for name, column in good.items() if name != "light"}
    cases = (
        (lambda: sample_attributes(-1, 0), "negative"),
        (lambda: sample_attributes(2, 0, {"scent": "sweet"}), "Unknown attribute 'scent'"),
        (lambda: sample_attributes(2, 0, {"colour": "grey"}), "colour cannot be 'grey'"),
        (lambda: draw(good, 63, 0), "not at 63"),
        (lambda: draw(good, 257, 0), "not at 257"),
        (lambda: draw(lacking, 64, 0), "lack light"),
        (lambda: draw(good | {"size": np.array([0])}, 64, 0), "same length"),
        (lambda: draw(good | {"size": np.array([0, 3])}, 64, 0), "size must lie between 0 and 2"),
        (lambda: captions(good, 0, per_image=17), "not 17"),
        (lambda: captions(good, 0, per_image=0), "not 0"),
        (lambda: captions(lacking, 0), "lack light"),
    )
    for call, part in cases:
        with pytest.raises(ValueError, match=re.escape(part)) as caught:
            call()
        assert re.fullmatch(r"[A-Za-z].* .*\.", str(caught.value))


COUNT = 2000


PLAIN = {  # a word that stands in every wording of the value, and in that of no other value of the attribute
    "colour": {
        "red": "red|crimson|scarlet",
        "orange": "orange|tangerine",
        "yellow": "yellow",
        "pink": "pink",
        "magenta": "magenta|fuchsia",
        "purple": "purple|violet",
        "blue": "blue",
        "white": "white",
    },
    "shape": {
        "rounded": "rounded|round",
        "pointed": "pointed|pointy",
        "ruffled": "ruffled|frilly|wavy",
        "slender": "slender|thin|narrow",
    },
    "centre": {"yellow": "yellow|golden", "green": "green", "brown": "brown", "white": "white"},
    "petals": {value: f"{value}|{count}" for count, value in enumerate(ATTRIBUTES["petals"], start=4)},
    "size": {"small": "small|little|tiny", "medium": "medium-sized|medium sized|mid-sized", "large": "large|big"},
    "stamens": {"none": "no", "few": "a few|handful", "many": "many|lots|numerous"},
}


SCENES = sorted(
    {phrase for name in ("background", "light") for value in WORDS[name].values() for phrase in value},
    key=len,
    reverse=True,
)


MIDDLE = r"(?:centre|center|middle)"


TONE = r"(?:(?:bright |pale |light |dark |deep |creamy )?(?:yellow|green|brown|white)|golden)"


def _roles(caption: str) -> dict[str, str]:
    """The caption taken apart: the words that speak of the scene, the stamens, the centre, and the rest."""
    scene = [phrase for phrase in SCENES if phrase in caption]
    for phrase in scene:
        caption = caption.replace(phrase, "")
    stamens = re.findall(
        r"(?:only )?(?:a few(?: short)?|a handful of|a ring of many|many|lots of|numerous|no(?: visible)?)"
        r" stamens",
        caption,
    )
    caption = re.sub("|".join(map(re.escape, stamens)), "", caption) if stamens else caption
    centre = re.findall(rf"{TONE} {MIDDLE}\b|{MIDDLE} is {TONE}", caption)
    for part in centre:
        caption = caption.replace(part, "")
    return {"scene": "; ".join(scene), "stamens": " ".join(stamens), "centre": " ".join(centre), "petals": caption}


@pytest.fixture(scope="module")
def written() -> tuple[dict[str, np.ndarray], list[list[str]], list[list[list[str]]]]:
    attributes = sample_attributes(COUNT, seed=7)
    return attributes, *captions(attributes, seed=7)


Written = tuple[dict[str, np.ndarray], list[list[str]], list[list[list[str]]]]


def test_captions_are_the_same_however_many_are_written(written: Written) -> None:
    attributes, texts, asked = written
    again, asked_again = captions(_rows(attributes, slice(7)), seed=7)
    assert again == texts[:7]
    assert asked_again == asked[:7]
    fewer, _ = captions(_rows(attributes, slice(7)), seed=7, per_image=2)
    assert fewer == [row[:2] for row in texts[:7]]
    other, _ = captions(_rows(attributes, slice(7)), seed=8)
    assert other != again
    assert [len(row) for row in texts] == [6] * COUNT


def test_captions_state_what_was_asked_and_contradict_nothing(written: Written) -> None:
    attributes, texts, asked = written
    role = {"stamens": "stamens", "centre": "centre"}
    for i in range(COUNT):
        values = get_values(attributes, i)
        for text, stated in zip(texts[i], asked[i], strict=True):
            parts = _roles(text)
            for name, wordings in PLAIN.items():
                said = [
                    value
                    for value, pattern in wordings.items()
                    if re.search(rf"(?<![\w-])(?:{pattern})(?![\w-])", parts[role.get(name, "petals")])
                ]
                assert said == ([values[name]] if name in stated else []), (text, name, parts)
            for name in ("background", "light"):
                said = [
                    value for value, phrases in WORDS[name].items() if set(phrases) & set(parts["scene"].split("; "))
                ]
                assert said == ([values[name]] if name in stated else []), (text, name, parts)


def test_wordings_belong_to_one_value_each() -> None:
    for name, wordings in WORDS.items():
        assert tuple(wordings) == ATTRIBUTES[name]
        phrases = [phrase for value in wordings.values() for phrase in set(value)]
        assert len(phrases) == len(set(phrases))


def test_captions_are_well_formed(written: Written) -> None:
    for text in (text for row in written[1] for text in row):
        assert not re.search(r"\ba [aeiou]|\ban [^aeiou]", text), text
        assert not re.search(r"  | ,|,,|^\W|\W$|\band,|\b(\w+) \1\b", text), text
        assert not re.search(r"\b(?:petals|stamens) (?:is|has|was)\b|\b(?:centre|center|middle) are\b", text), text
        british, american = re.search("centre|colour", text), re.search(r"center|color\b", text)
        assert not (british and american), text
        assert len(text.split()) >= 3


def test_captions_state_each_attribute_about_as_often_as_people_do(written: Written) -> None:
    stated = Counter(name for row in written[2] for names_ in row for name in names_)
    bounds = {
        "colour": (0.88, 0.98),
        "shape": (0.77, 0.83),
        "centre": (0.67, 0.73),
        "petals": (0.32, 0.38),
        "size": (0.22, 0.28),
        "stamens": (0.22, 0.28),
        "background": (0.13, 0.17),
        "light": (0.06, 0.10),
    }
    for name, (low, high) in bounds.items():
        assert low < stated[name] / (6 * COUNT) < high, name


def test_captions_are_mostly_distinct(written: Written) -> None:
    flat = [text for row in written[1] for text in row][:10_000]
    assert len(set(flat)) >= 0.6 * len(flat)
    assert any("color" in text for text in flat)
    assert any("colour" in text for text in flat)

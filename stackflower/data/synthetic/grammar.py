"""Captions of the synthetic flowers, modelled on captions that people wrote for photographs of flowers.

A caption mentions some of an image's attributes (see `stackflower.data.synthetic.attributes`), each in words that fit
only one of its values, and leaves out the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache

import numpy as np

from stackflower.data.synthetic.attributes import ATTRIBUTES

MOST_PER_IMAGE = 16
"""The largest number of captions per image."""

WORDS: dict[str, dict[str, tuple[str, ...]]] = {
    "colour": {
        "red": ("red", "red", "bright red", "deep red", "crimson", "scarlet"),
        "orange": ("orange", "orange", "bright orange", "deep orange", "tangerine"),
        "yellow": ("yellow", "yellow", "bright yellow", "lemon yellow", "sunny yellow"),
        "pink": ("pink", "pink", "pale pink", "light pink", "soft pink"),
        "magenta": ("magenta", "magenta", "bright magenta", "fuchsia", "deep magenta"),
        "purple": ("purple", "purple", "violet", "deep purple", "rich purple"),
        "blue": ("blue", "blue", "bright blue", "deep blue", "cornflower blue"),
        "white": ("white", "white", "pure white", "snowy white", "bright white"),
    },
    "shape": {
        "rounded": ("rounded", "rounded", "round", "smoothly rounded"),
        "pointed": ("pointed", "pointed", "pointy", "sharply pointed"),
        "ruffled": ("ruffled", "ruffled", "frilly", "wavy"),
        "slender": ("slender", "slender", "thin", "narrow"),
    },
    "centre": {
        "yellow": ("yellow", "yellow", "bright yellow", "golden"),
        "green": ("green", "green", "pale green", "light green"),
        "brown": ("brown", "brown", "dark brown", "deep brown"),
        "white": ("white", "white", "pale white", "creamy white"),
    },
    "petals": {name: (name, name, name, str(count)) for count, name in enumerate(ATTRIBUTES["petals"], start=4)},
    "size": {
        "small": ("small", "small", "little", "tiny"),
        "medium": ("medium-sized", "medium-sized", "medium sized", "mid-sized"),
        "large": ("large", "large", "big", "big"),
    },
    "stamens": {
        "none": ("no stamens", "no visible stamens", "no stamens showing"),
        "few": ("a few stamens", "a few short stamens", "only a few stamens", "a handful of stamens"),
        "many": ("many stamens", "lots of stamens", "numerous stamens", "a ring of many stamens"),
    },
    "background": {
        "leaves": (
            "set among green leaves",
            "in front of green leaves",
            "with green leaves behind it",
            "surrounded by leaves",
        ),
        "grass": ("growing in the grass", "standing in green grass", "with grass behind it", "in a patch of grass"),
        "soil": (
            "growing from brown soil",
            "with bare soil behind it",
            "above bare brown earth",
            "in front of dark soil",
        ),
        "sky": ("against a blue sky", "against the sky", "with the sky behind it", "under a cloudy blue sky"),
        "dark": (
            "against a dark background",
            "on a black background",
            "in front of deep shadow",
            "with darkness behind it",
        ),
    },
    "light": {
        "bright": ("in bright sunlight", "in bright light", "in full sun", "lit by a bright sun"),
        "soft": ("in soft light", "in soft, even light", "in soft, diffuse light", "in gentle light"),
        "evening": ("in warm evening light", "in the evening sun", "in the glow of evening", "at sunset"),
    },
}
"""Words and phrases for each value of each attribute; the more common ones are listed several times."""

_EDGES = {
    "rounded": ("rounded at the edges", "rounded at the tips", "round at the ends"),
    "pointed": ("pointed at the tips", "pointed at the ends", "sharply pointed"),
    "ruffled": ("ruffled at the edges", "frilly at the edges", "wavy along the edges"),
    "slender": ("long and slender", "thin and long", "narrow and long"),
}
_MENTION_RATES = {  # share of captions that mention an attribute
    "colour": 0.92,
    "shape": 0.80,
    "centre": 0.70,
    "petals": 0.35,
    "size": 0.25,
    "stamens": 0.25,
    "background": 0.15,
    "light": 0.08,
}
_NAMES = tuple(ATTRIBUTES)
_MAIN = ("colour", "shape", "petals")  # every caption mentions at least one of these
_PICKS = 32  # random numbers for the wording of a caption


class _Phrases:
    """Phrases of a caption for the attributes it mentions ("" for the rest), and its random choices."""

    def __init__(self, values: dict[str, str], picks: Sequence[float]) -> None:
        self._picks = iter(picks)
        british = self.chance(0.5)
        self.color = "colour" if british else "color"
        self.middle = self.pick(("centre", "centre", "middle") if british else ("center", "center", "middle"))
        self.values = values
        chosen = {name: self.pick(WORDS[name][value]) for name, value in values.items()}
        self.colour, self.shape, self.number, self.size, self.inner, self.stamens = (
            chosen.get(name, "") for name in ("colour", "shape", "petals", "size", "centre", "stamens")
        )
        self.scene = [chosen[name] for name in ("background", "light") if name in chosen]

    def pick(self, options: Sequence[str]) -> str:
        return options[int(next(self._picks) * len(options))]

    def chance(self, share: float) -> bool:
        return next(self._picks) < share

    def core(self) -> str:
        """Return the centre with its article, "a yellow centre", or "" if it is not mentioned."""
        return _a(self.inner, self.middle) if self.inner else ""

    def petals(self, colour: bool = True) -> str:
        """Return the petals with their mentioned attributes, "six pointed purple petals"."""
        return _join(self.number, self.shape, self.colour if colour else "", "petals")

    def tail(self, *features: str, link: str = " with ") -> str:
        """Return the mentioned features after `link`, " with a yellow centre and many stamens", or "" without any."""
        stated = _list(features)
        return link + stated if stated else ""


def _join(*words: str) -> str:
    return " ".join(word for word in words if word)


def _list(items: Sequence[str]) -> str:
    stated = [item for item in items if item]
    return ", ".join(stated[:-1]) + " and " + stated[-1] if len(stated) > 1 else "".join(stated)


def _a(*words: str) -> str:
    """Prepend "a" or "an", chosen by the first letter, which is right for all words used here."""
    phrase = _join(*words)
    return ("an " if phrase[0] in "aeiou" else "a ") + phrase


def _plain(phrases: _Phrases) -> str:
    """Write "this flower has six pointed purple petals and a bright yellow centre"."""
    verb = phrases.pick(("has", "has", "has", "displays", "shows"))
    subject = _join(phrases.pick(("this", "this", "the")), phrases.size, "flower")
    if phrases.colour and phrases.chance(0.3):
        petals = _join(phrases.number, phrases.shape, "petals that are", phrases.colour)
        if phrases.chance(0.4):
            petals += " in " + phrases.color
        return f"{subject} {verb} {petals}" + phrases.tail(phrases.core(), phrases.stamens, link=", with ")
    return f"{subject} {verb} " + _list((phrases.petals(), phrases.core(), phrases.stamens))


def _noun(phrases: _Phrases) -> str:
    """Write "a small white flower with ruffled petals and a green centre"."""
    head = _a(phrases.size, phrases.colour, "flower")
    petals = phrases.petals(colour=False) if phrases.number or phrases.shape else ""
    if phrases.chance(0.3):
        head = phrases.pick(("here is ", "this is ", "a close view of ", "there is ")) + head
    features = [petals, phrases.core(), phrases.stamens]
    if petals and phrases.chance(0.3):
        return head + phrases.pick((" that has ", ", it has ", " having ")) + _list(features)
    return head + phrases.tail(*features)


def _adjective(phrases: _Phrases) -> str:
    """Write "the petals are slender and blue while the middle is brown"."""
    owner = phrases.pick(("", "", " of this flower", " on this flower"))
    if phrases.size:
        owner = phrases.pick((" of this ", " on this ", " of the ")) + phrases.size + " flower"
    chosen = [phrases.shape, phrases.colour]
    if phrases.chance(0.4):
        chosen.reverse()
    if not any(chosen):
        text = f"there are {phrases.number} petals" + (" on" + owner[3:] if owner else "")
    else:
        text = "the " + _join(phrases.number, "petals") + owner + " are " + _list(chosen)
    if phrases.inner:
        unlike = phrases.values["centre"] != phrases.values.get("colour")
        link = phrases.pick((" while ", " and ", ", and ", ", but " if unlike else " and "))
        text += f"{link}the {phrases.middle} is {phrases.inner}"
    return text + (phrases.pick((", with ", ", and there are ")) + phrases.stamens if phrases.stamens else "")


def _around(phrases: _Phrases) -> str:
    """Write "pink petals surround a green centre with many stamens"."""
    petals = phrases.petals()
    if phrases.size and phrases.chance(0.5):
        petals = _a(phrases.size, "flower") + phrases.pick((" whose ", " on which ")) + petals
        verb = phrases.pick(("surround", "encircle"))
    elif phrases.size:
        return (
            _a(phrases.size, "flower with ")
            + petals
            + phrases.pick((" around ", " surrounding "))
            + (phrases.core() + phrases.tail(phrases.stamens))
        )
    else:
        verb = phrases.pick(("surround", "encircle", "spread out from", "are arranged around", "fan out from"))
    return f"{petals} {verb} {phrases.core()}" + phrases.tail(phrases.stamens)


def _inside(phrases: _Phrases) -> str:
    """Write "a brown centre is surrounded by eight slender yellow petals"."""
    text = phrases.core() + phrases.pick((" is surrounded by ", " sits inside ", " amid "))
    where = phrases.pick((" on ", " in ")) + _a(phrases.size, "flower") if phrases.size else ""
    return text + phrases.petals() + where + phrases.tail(phrases.stamens, link=", with ")


def _edges(phrases: _Phrases) -> str:
    """Write "this flower is orange in color with petals that are rounded at the edges"."""
    edges = phrases.pick(_EDGES[phrases.values["shape"]])
    size = phrases.size + " and " if phrases.size else ""
    colour = phrases.colour + phrases.pick(("", " in " + phrases.color))
    text = phrases.pick(("this flower is ", "the flower is ", "this bloom is ")) + size + colour
    petals = _join(phrases.number, "petals that are", edges)
    return text + " with " + _list((petals, phrases.core(), phrases.stamens))


def _whose(phrases: _Phrases) -> str:
    """Write "a large flower whose five petals are red and pointed at the tips"."""
    edges = phrases.pick(_EDGES[phrases.values["shape"]])
    chosen = _list((phrases.colour, *edges.split(" and ")))
    subject = _a(phrases.size, "flower") if phrases.size else phrases.pick(("a flower", "this is a flower"))
    text = f"{subject} whose {_join(phrases.number, 'petals')} are {chosen}"
    return text + phrases.tail(phrases.core(), phrases.stamens, link=", with ")


def _bloom(phrases: _Phrases) -> str:
    """Write "this blue flower has a white centre and a few stamens"."""
    noun = phrases.pick(("flower", "flower", "bloom", "blossom"))
    subject = _join(phrases.pick(("this", "the")), phrases.size, phrases.colour, noun)
    petals = phrases.petals(colour=False) if phrases.number or phrases.shape else ""
    features = _list((petals, phrases.core(), phrases.stamens))
    return f"{subject} has {features}"


def _its(phrases: _Phrases) -> str:
    """Write "this flower is purple, its petals are pointed and its center is yellow"."""
    parts = [
        "its petals are " + phrases.shape if phrases.shape else "",
        f"its {phrases.middle} is {phrases.inner}" if phrases.inner else "",
        "it has " + _list((phrases.number + " petals" if phrases.number else "", phrases.stamens))
        if phrases.number or phrases.stamens
        else "",
    ]
    subject = phrases.pick(("this flower is ", "the flower is ", "the flower in the picture is "))
    return f"{subject}{_list((phrases.size, phrases.colour))}, {_list(parts)}"


_Template = Callable[[_Phrases], str]
_TEMPLATES: tuple[tuple[_Template, int, tuple[tuple[str, ...], ...]], ...] = (
    # template, weight, and the attributes it needs: at least one of each group
    (_plain, 5, ()),
    (_noun, 5, (("colour", "size"),)),
    (_adjective, 3, ()),
    (_around, 3, (("centre",),)),
    (_inside, 1, (("centre",),)),
    (_edges, 3, (("colour",), ("shape",))),
    (_whose, 2, (("shape",),)),
    (_bloom, 2, (("colour",), ("shape", "petals", "centre", "stamens"))),
    (_its, 2, (("colour", "size"), ("shape", "centre"))),
)


@cache
def _fitting(names: frozenset[str]) -> list[_Template]:
    """Return the templates for captions that mention these attributes, each as often as its weight."""
    return [
        template
        for template, weight, needs in _TEMPLATES
        if all(any(name in names for name in group) for group in needs)
        for _ in range(weight)
    ]


def _caption(values: dict[str, str], picks: Sequence[float]) -> str:
    phrases, fitting = _Phrases(values, picks[1:]), _fitting(frozenset(values))
    text = fitting[int(picks[0] * len(fitting))](phrases)
    if not phrases.scene:
        return text
    if len(phrases.scene) == 1 and "behind it" not in phrases.scene[0] and phrases.chance(0.2):
        return f"{phrases.scene[0]}, {text}"
    return ", ".join((text, *phrases.scene))


def _mentioned(values: dict[str, str], draws: Sequence[float]) -> list[str]:
    """Return the attributes that a caption mentions: each at its own rate, including one of `_MAIN`."""
    names = [name for name, draw in zip(_NAMES, draws, strict=True) if draw < _MENTION_RATES[name]]
    return names if any(name in _MAIN for name in names) else ["colour", *names]


def captions(
    attributes: Mapping[str, np.ndarray], seed: int, per_image: int = 6
) -> tuple[list[list[str]], list[list[list[str]]]]:
    """Write captions of images.

    Caption j of image i depends only on `seed`, i, j and the attributes of the image.

    Args:
        attributes: for each attribute, the indices (N,) of its values (see `sample_attributes`).
        seed: random seed.
        per_image: captions per image, 1 to 16.

    Returns:
        The captions, ``captions[i][j]``, and the names of the attributes that each mentions, ``mentioned[i][j]``, in
        the order of `ATTRIBUTES`.

    Raises:
        ValueError: `per_image` is out of range or an attribute is missing.
    """
    if not 1 <= per_image <= MOST_PER_IMAGE:
        raise ValueError(f"An image has 1 to {MOST_PER_IMAGE} captions, not {per_image}.")
    missing = [name for name in ATTRIBUTES if name not in attributes]
    if missing:
        raise ValueError(f"The images' attributes lack {', '.join(missing)}.")
    source = np.random.Generator(np.random.Philox(key=[seed % 2**64, 4]))
    texts: list[list[str]] = []
    mentioned: list[list[list[str]]] = []
    width = len(_NAMES)
    for row in zip(*(np.asarray(attributes[name]).tolist() for name in _NAMES), strict=True):
        values = {name: ATTRIBUTES[name][index] for name, index in zip(_NAMES, row, strict=True)}
        table = source.random((MOST_PER_IMAGE, width + _PICKS))[:per_image].tolist()
        names = [_mentioned(values, draws[:width]) for draws in table]
        mentioned.append(names)
        texts.append(
            [
                _caption({name: values[name] for name in chosen}, draws[width:])
                for chosen, draws in zip(names, table, strict=True)
            ]
        )
    return texts, mentioned

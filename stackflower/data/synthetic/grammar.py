"""Captions for drawn flowers, in the manner of those people wrote for photographs of flowers.

A caption states some of a picture's attributes (see ``stackflower.data.synthetic.draw``), in words that fit one
value of each attribute only, and leaves out the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from stackflower.data.synthetic.attributes import ATTRIBUTES

MOST_PER_IMAGE = 16
"""The largest number of captions of one picture."""

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
"""For each value of each attribute, the words or phrases that state it; the commoner ones come twice."""

_EDGES = {
    "rounded": ("rounded at the edges", "rounded at the tips", "round at the ends"),
    "pointed": ("pointed at the tips", "pointed at the ends", "sharply pointed"),
    "ruffled": ("ruffled at the edges", "frilly at the edges", "wavy along the edges"),
    "slender": ("long and slender", "thin and long", "narrow and long"),
}
_SHARE = {
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
_MAIN = ("colour", "shape", "petals")  # a caption states at least one of these
_PICKS = 32  # random numbers for the wording of one caption


class _Voice:
    """One caption in the making: the words for what it states ("" for the rest) and its own choices."""

    def __init__(self, values: dict[str, str], picks: Sequence[float]) -> None:
        self._picks = iter(picks)
        british = self.chance(0.5)
        self.color = "colour" if british else "color"
        self.middle = self.pick(("centre", "centre", "middle") if british else ("center", "center", "middle"))
        self.values = values
        said = {name: self.pick(WORDS[name][value]) for name, value in values.items()}
        self.colour, self.shape, self.number, self.size, self.inner, self.stamens = (
            said.get(name, "") for name in ("colour", "shape", "petals", "size", "centre", "stamens")
        )
        self.scene = [said[name] for name in ("background", "light") if name in said]

    def pick(self, options: Sequence[str]) -> str:
        return options[int(next(self._picks) * len(options))]

    def chance(self, share: float) -> bool:
        return next(self._picks) < share

    def core(self) -> str:
        """The centre with its article: "a yellow centre"; "" where it is not stated."""
        return _a(self.inner, self.middle) if self.inner else ""

    def petals(self, colour: bool = True) -> str:
        """The petals with what is said of them: "six pointed purple petals"."""
        return _join(self.number, self.shape, self.colour if colour else "", "petals")

    def tail(self, *features: str, link: str = " with ") -> str:
        """`` with a yellow centre and many stamens``: the features that are stated, or nothing."""
        stated = _list(features)
        return link + stated if stated else ""


def _join(*words: str) -> str:
    return " ".join(word for word in words if word)


def _list(items: Sequence[str]) -> str:
    stated = [item for item in items if item]
    return ", ".join(stated[:-1]) + " and " + stated[-1] if len(stated) > 1 else "".join(stated)


def _a(*words: str) -> str:
    """The words after "a" or "an"; no word used here sounds other than it is spelt."""
    phrase = _join(*words)
    return ("an " if phrase[0] in "aeiou" else "a ") + phrase


def _plain(voice: _Voice) -> str:
    """this flower has six pointed purple petals and a bright yellow centre"""
    verb = voice.pick(("has", "has", "has", "displays", "shows"))
    subject = _join(voice.pick(("this", "this", "the")), voice.size, "flower")
    if voice.colour and voice.chance(0.3):
        petals = _join(voice.number, voice.shape, "petals that are", voice.colour)
        if voice.chance(0.4):
            petals += " in " + voice.color
        return f"{subject} {verb} {petals}" + voice.tail(voice.core(), voice.stamens, link=", with ")
    return f"{subject} {verb} " + _list((voice.petals(), voice.core(), voice.stamens))


def _noun(voice: _Voice) -> str:
    """a small white flower with ruffled petals and a green centre"""
    head = _a(voice.size, voice.colour, "flower")
    petals = voice.petals(colour=False) if voice.number or voice.shape else ""
    if voice.chance(0.3):
        head = voice.pick(("here is ", "this is ", "a close view of ", "there is ")) + head
    features = [petals, voice.core(), voice.stamens]
    if petals and voice.chance(0.3):
        return head + voice.pick((" that has ", ", it has ", " having ")) + _list(features)
    return head + voice.tail(*features)


def _adjective(voice: _Voice) -> str:
    """the petals are slender and blue while the middle is brown"""
    owner = voice.pick(("", "", " of this flower", " on this flower"))
    if voice.size:
        owner = voice.pick((" of this ", " on this ", " of the ")) + voice.size + " flower"
    said = [voice.shape, voice.colour]
    if voice.chance(0.4):
        said.reverse()
    if not any(said):
        text = f"there are {voice.number} petals" + (" on" + owner[3:] if owner else "")
    else:
        text = "the " + _join(voice.number, "petals") + owner + " are " + _list(said)
    if voice.inner:
        unlike = voice.values["centre"] != voice.values.get("colour")
        link = voice.pick((" while ", " and ", ", and ", ", but " if unlike else " and "))
        text += f"{link}the {voice.middle} is {voice.inner}"
    return text + (voice.pick((", with ", ", and there are ")) + voice.stamens if voice.stamens else "")


def _around(voice: _Voice) -> str:
    """pink petals surround a green centre with many stamens"""
    petals = voice.petals()
    if voice.size and voice.chance(0.5):
        petals = _a(voice.size, "flower") + voice.pick((" whose ", " on which ")) + petals
        verb = voice.pick(("surround", "encircle"))
    elif voice.size:
        return (
            _a(voice.size, "flower with ")
            + petals
            + voice.pick((" around ", " surrounding "))
            + (voice.core() + voice.tail(voice.stamens))
        )
    else:
        verb = voice.pick(("surround", "encircle", "spread out from", "are arranged around", "fan out from"))
    return f"{petals} {verb} {voice.core()}" + voice.tail(voice.stamens)


def _inside(voice: _Voice) -> str:
    """a brown centre is surrounded by eight slender yellow petals"""
    text = voice.core() + voice.pick((" is surrounded by ", " sits inside ", " amid "))
    where = voice.pick((" on ", " in ")) + _a(voice.size, "flower") if voice.size else ""
    return text + voice.petals() + where + voice.tail(voice.stamens, link=", with ")


def _edges(voice: _Voice) -> str:
    """this flower is orange in color with petals that are rounded at the edges"""
    edges = voice.pick(_EDGES[voice.values["shape"]])
    size = voice.size + " and " if voice.size else ""
    colour = voice.colour + voice.pick(("", " in " + voice.color))
    text = voice.pick(("this flower is ", "the flower is ", "this bloom is ")) + size + colour
    petals = _join(voice.number, "petals that are", edges)
    return text + " with " + _list((petals, voice.core(), voice.stamens))


def _whose(voice: _Voice) -> str:
    """a large flower whose five petals are red and pointed at the tips"""
    edges = voice.pick(_EDGES[voice.values["shape"]])
    said = _list((voice.colour, *edges.split(" and ")))
    subject = _a(voice.size, "flower") if voice.size else voice.pick(("a flower", "this is a flower"))
    text = f"{subject} whose {_join(voice.number, 'petals')} are {said}"
    return text + voice.tail(voice.core(), voice.stamens, link=", with ")


def _bloom(voice: _Voice) -> str:
    """this blue flower has a white centre and a few stamens"""
    noun = voice.pick(("flower", "flower", "bloom", "blossom"))
    subject = _join(voice.pick(("this", "the")), voice.size, voice.colour, noun)
    petals = voice.petals(colour=False) if voice.number or voice.shape else ""
    features = _list((petals, voice.core(), voice.stamens))
    return f"{subject} has {features}"


def _its(voice: _Voice) -> str:
    """this flower is purple, its petals are pointed and its center is yellow"""
    parts = [
        "its petals are " + voice.shape if voice.shape else "",
        f"its {voice.middle} is {voice.inner}" if voice.inner else "",
        "it has " + _list((voice.number + " petals" if voice.number else "", voice.stamens))
        if voice.number or voice.stamens
        else "",
    ]
    subject = voice.pick(("this flower is ", "the flower is ", "the flower in the picture is "))
    return f"{subject}{_list((voice.size, voice.colour))}, {_list(parts)}"


_Form = Callable[[_Voice], str]
_FORMS: tuple[tuple[_Form, int, tuple[tuple[str, ...], ...]], ...] = (
    # a form, how often it is tried, and the attributes it needs: one at least of each group
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


def _caption(values: dict[str, str], picks: Sequence[float]) -> str:
    voice = _Voice(values, picks[1:])
    fitting = [
        form
        for form, weight, needs in _FORMS
        if all(any(name in values for name in group) for group in needs)
        for _ in range(weight)
    ]
    text = fitting[int(picks[0] * len(fitting))](voice)
    if not voice.scene:
        return text
    if len(voice.scene) == 1 and "behind it" not in voice.scene[0] and voice.chance(0.2):
        return f"{voice.scene[0]}, {text}"
    return ", ".join((text, *voice.scene))


def _asked(values: dict[str, str], draws: Sequence[float]) -> list[str]:
    """The names a caption states: each with its own share, and at least one that tells of the petals."""
    names = [name for name, draw in zip(_NAMES, draws, strict=True) if draw < _SHARE[name]]
    return names if any(name in _MAIN for name in names) else ["colour", *names]


def captions(
    attributes: Mapping[str, np.ndarray], seed: int, per_image: int = 6
) -> tuple[list[list[str]], list[list[list[str]]]]:
    """Captions of pictures and what each states: ``captions[i][j]`` and ``asked[i][j]``.

    ``attributes`` holds (N,) indices for every name of ``ATTRIBUTES``; ``asked[i][j]`` lists the names that
    caption j of picture i states, in that order. A caption depends on ``seed``, i, j and the picture's
    attributes alone. Raises ValueError for ``per_image`` outside 1 to 16 and for missing attributes.
    """
    if not 1 <= per_image <= MOST_PER_IMAGE:
        raise ValueError(f"A picture has 1 to {MOST_PER_IMAGE} captions, not {per_image}.")
    missing = [name for name in ATTRIBUTES if name not in attributes]
    if missing:
        raise ValueError(f"The pictures' attributes lack {', '.join(missing)}.")
    source = np.random.Generator(np.random.Philox(key=[seed % 2**64, 4]))
    texts: list[list[str]] = []
    stated: list[list[list[str]]] = []
    width = len(_NAMES)
    for row in zip(*(np.asarray(attributes[name]).tolist() for name in _NAMES), strict=True):
        values = {name: ATTRIBUTES[name][index] for name, index in zip(_NAMES, row, strict=True)}
        table = source.random((MOST_PER_IMAGE, width + _PICKS))[:per_image].tolist()
        names = [_asked(values, draws[:width]) for draws in table]
        stated.append(names)
        texts.append(
            [
                _caption({name: values[name] for name in asked}, draws[width:])
                for asked, draws in zip(names, table, strict=True)
            ]
        )
    return texts, stated

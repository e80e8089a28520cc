"""Pictures of flowers drawn by code: the built-in data set ``synthetic-flowers``.

Each picture is a flower before an out-of-focus garden. Eight named attributes say what it shows;
everything else (place, turn, tilt, differences between petals, what lies behind) is drawn from the seed.
Lengths are in *picture units*, in which the picture spans [-1, 1] in x (right) and y (down), or in
*flower units*, in which the flower's own radius is 1. Colours are RGB in [0, 1].
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "colour": ("red", "orange", "yellow", "pink", "magenta", "purple", "blue", "white"),
    "shape": ("rounded", "pointed", "ruffled", "slender"),
    "centre": ("yellow", "green", "brown", "white"),
    "petals": ("four", "five", "six", "seven", "eight", "nine", "ten"),
    "size": ("small", "medium", "large"),
    "stamens": ("none", "few", "many"),
    "background": ("leaves", "grass", "soil", "sky", "dark"),
    "light": ("bright", "soft", "evening"),
}
"""The attributes and their values, in order; a picture's attribute is an index into its values."""

RESOLUTIONS = (64, 256)
"""The smallest and the largest side of a picture in pixels."""

_COLUMNS = 1000  # uniform numbers drawn for each picture
_GROUP = 8  # pictures drawn together
# Pixels worked on at a time. Two values for each stay below the 32,768 at which torch splits an operation
# over its threads; here each thread draws groups of its own instead, so that none waits for another. (Some
# operations, exp, cos and indexing among them, are split much earlier: `_fade`, `_wave`, `_at` do without.)
_PIXELS = 16_383
_MOST_PETALS = 10
_VARIANTS = 8  # outlines per petal shape
_BINS = 1024  # directions per outline
_BACKDROP = 48  # side of the grid on which the (blurred) background is drawn
_BLOBS, _BOKEH = 14, 5
_STREAKS = 12
_MOST_STAMENS = 22

_PETAL = (
    (0.80, 0.06, 0.08),
    (0.97, 0.46, 0.05),
    (0.98, 0.86, 0.14),
    (0.96, 0.60, 0.72),
    (0.82, 0.07, 0.48),
    (0.46, 0.17, 0.70),
    (0.20, 0.32, 0.86),
    (0.95, 0.95, 0.94),
)
_TIP = (
    (0.90, 0.16, 0.14),
    (1.00, 0.60, 0.16),
    (1.00, 0.93, 0.34),
    (1.00, 0.76, 0.84),
    (0.92, 0.22, 0.60),
    (0.60, 0.34, 0.82),
    (0.38, 0.52, 0.95),
    (1.00, 1.00, 1.00),
)
_DISC = ((0.96, 0.76, 0.08), (0.46, 0.64, 0.16), (0.36, 0.20, 0.10), (0.96, 0.95, 0.88))
_ANTHER = (
    (0.95, 0.80, 0.30),
    (0.95, 0.80, 0.30),
    (0.42, 0.20, 0.10),
    (0.42, 0.20, 0.10),
    (0.97, 0.88, 0.55),
    (0.97, 0.88, 0.55),
    (0.97, 0.88, 0.55),
    (0.50, 0.28, 0.12),
)
_GRASS, _SKY, _NIGHT = 1, 3, 4
# For each background: two colours of the ground, two of the things before it.
_GROUND = (
    ((0.07, 0.17, 0.06), (0.20, 0.36, 0.12), (0.16, 0.36, 0.10), (0.44, 0.60, 0.24)),
    ((0.20, 0.36, 0.09), (0.44, 0.58, 0.18), (0.32, 0.52, 0.12), (0.66, 0.76, 0.32)),
    ((0.20, 0.13, 0.09), (0.40, 0.29, 0.20), (0.28, 0.19, 0.13), (0.56, 0.44, 0.33)),
    ((0.42, 0.60, 0.82), (0.66, 0.79, 0.92), (0.74, 0.84, 0.93), (0.93, 0.95, 0.97)),
    ((0.02, 0.03, 0.03), (0.06, 0.09, 0.06), (0.04, 0.07, 0.04), (0.14, 0.20, 0.12)),
)
# length, breadth, softness, roundness (0 a leaf, 1 an ellipse), spread of direction, opacity
_THINGS = (
    (0.62, 0.26, 0.35, 0.15, 1.0, 0.85),
    (0.95, 0.075, 0.7, 0.0, 0.16, 0.8),
    (0.17, 0.13, 0.7, 1.0, 1.0, 0.75),
    (0.75, 0.26, 1.0, 1.0, 0.12, 0.55),
    (0.50, 0.28, 0.6, 0.5, 1.0, 0.7),
)
# strength of the light's direction, then its colour
_LIGHT = ((1.25, 1.06, 1.04, 1.00), (0.60, 0.90, 0.92, 0.94), (1.10, 1.04, 0.95, 0.85))
# what the air before the background adds on the sun's side
_HAZE = ((0.03, 0.03, 0.02), (0.05, 0.06, 0.07), (0.34, 0.17, 0.02))


def _key(seed: int, use: int) -> list[int]:
    return [seed % 2**64, use]


def _position(name: str, value: str) -> int:
    if name not in ATTRIBUTES:
        raise ValueError(f"There is no attribute {name!r}; the attributes are {', '.join(ATTRIBUTES)}.")
    if value not in ATTRIBUTES[name]:
        raise ValueError(f"{name} cannot be {value!r}; it is one of {', '.join(ATTRIBUTES[name])}.")
    return ATTRIBUTES[name].index(value)


def sample_attributes(count: int, seed: int, fixed: Mapping[str, str] | None = None) -> dict[str, np.ndarray]:
    """Attributes of ``count`` pictures: int64 (N,) indices into ``ATTRIBUTES[name]`` for every name.

    They are uniform and independent of one another; ``fixed`` pins some (name -> value). Row i does not
    depend on ``count``, nor on what is pinned. Raises ValueError for a negative count or for an unknown
    name or value.
    """
    if count < 0:
        raise ValueError(f"The number of pictures cannot be negative, and {count} was asked for.")
    pinned = {name: _position(name, value) for name, value in (fixed or {}).items()}
    uniform = np.random.Generator(np.random.Philox(key=_key(seed, 1))).random((count, len(ATTRIBUTES)))
    result = {}
    for column, (name, values) in enumerate(ATTRIBUTES.items()):
        result[name] = np.minimum((uniform[:, column] * len(values)).astype(np.int64), len(values) - 1)
        if name in pinned:
            result[name][:] = pinned[name]
    return result


def names(attributes: Mapping[str, np.ndarray], index: int) -> dict[str, str]:
    """The attribute values of picture ``index`` as words, in the order of ``ATTRIBUTES``."""
    return {name: values[int(attributes[name][index])] for name, values in ATTRIBUTES.items()}


def _checked(attributes: Mapping[str, np.ndarray], resolution: int) -> dict[str, np.ndarray]:
    low, high = RESOLUTIONS
    if not low <= resolution <= high:
        raise ValueError(f"Pictures are drawn at {low} to {high} pixels a side, not at {resolution}.")
    missing = [name for name in ATTRIBUTES if name not in attributes]
    if missing:
        raise ValueError(f"The pictures' attributes lack {', '.join(missing)}.")
    columns = {name: np.asarray(attributes[name]) for name in ATTRIBUTES}
    if len({column.shape for column in columns.values()}) != 1 or columns["colour"].ndim != 1:
        raise ValueError("Every attribute must be a row of numbers, all of the same length.")
    for name, column in columns.items():
        if column.size and not (column.min() >= 0 and column.max() < len(ATTRIBUTES[name])):
            raise ValueError(f"{name} must lie between 0 and {len(ATTRIBUTES[name]) - 1} in every picture.")
    return columns


def draw(
    attributes: Mapping[str, np.ndarray],
    resolution: int,
    seed: int,
    progress: Callable[[int], None] | None = None,
    first: int = 0,
    last: int | None = None,
) -> np.ndarray:
    """Draw the pictures `first` to `last`: uint8 (last − first, resolution, resolution, 3), RGB.

    ``attributes`` holds (N,) indices for every name (see ``sample_attributes``). Picture i depends on
    ``seed``, i and its own attributes alone, and is the same flower at every resolution (64 to 256).
    ``progress`` is called with the number of pictures just finished. Raises ValueError for a resolution
    outside that range and for attributes that are missing, of unlike lengths or out of range.
    """
    columns = _checked(attributes, resolution)
    count = len(columns["colour"])
    last = count if last is None else last
    if first % _GROUP:
        raise ValueError(f"first = {first}: it must be a multiple of {_GROUP}.")
    pictures = np.empty((last - first, resolution, resolution, 3), dtype=np.uint8)

    def group(start: int) -> int:
        # A short last group is filled up, so that every picture has the same place in tensors of one shape
        # and comes out the same to the last bit however many follow it.
        rows = np.minimum(np.arange(start, start + _GROUP), count - 1)
        chosen = {name: torch.from_numpy(column[rows].astype(np.int64)) for name, column in columns.items()}
        random = np.random.Philox(key=_key(seed, 2), counter=[0, 0, start // _GROUP, 0])
        table = torch.from_numpy(np.random.Generator(random).random((_GROUP, _COLUMNS), dtype=np.float32))
        done = min(_GROUP, last - start)
        place = start - first
        with torch.inference_mode():
            for top, band in _bands(table, chosen, resolution):
                pictures[place : place + done, top : top + band.shape[1]] = band[:done].numpy()
        return done

    _outlines()
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        for done in pool.map(group, range(first, last, _GROUP)):
            if progress is not None:
                progress(done)
    return pictures


class _Draws:
    """Hands out the columns of a (B, K) table of uniform numbers, each once, in a fixed order."""

    def __init__(self, table: Tensor) -> None:
        self._table, self._next = table, 0

    def __call__(self, low: float, high: float, *shape: int) -> Tensor:
        """(B, *shape) numbers between ``low`` and ``high``."""
        start, self._next = self._next, self._next + math.prod(shape)
        if self._next > self._table.shape[1]:
            raise RuntimeError("a picture asks for more random numbers than its row holds")
        return self._table[:, start : self._next].reshape(-1, *shape) * (high - low) + low


def _rows(values: Sequence[Sequence[float | Sequence[float]]], index: Tensor) -> Tensor:
    return torch.tensor(values)[index]


def _flat(values: Tensor) -> Tensor:
    """(B,) numbers, or one channel's, shaped to go with (B, H, W)."""
    return values[..., None, None]


def _step(values: Tensor) -> Tensor:
    """0 below 0, 1 above 1, smooth between."""
    values = values.clamp(0, 1)
    return values * values * (3 - 2 * values)


def _wave(turns: Tensor) -> Tensor:
    """A smooth wave between -1 and 1, highest at whole ``turns``, much like the cosine."""
    swing = (torch.remainder(turns, 1) * 2 - 1).abs()
    return swing * swing * (6 - 4 * swing) - 1


def _fade(values: Tensor) -> Tensor:
    """e to the power of ``values``."""
    return torch.exp2(values * (1 / math.log(2)))


def _nearest(values: Tensor, spacing: Tensor) -> Tensor:
    return torch.div(values + 0.5 * spacing, spacing, rounding_mode="floor")


def _at(values: Tensor, index: Tensor) -> Tensor:
    """The entries of ``values``, read as one long row, at ``index``."""
    return values.reshape(1, -1).gather(1, index.reshape(1, -1)).view(index.shape)


def _line(side: int) -> Tensor:
    return (torch.arange(side) + 0.5) * (2 / side) - 1


def _enlarge(cells: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """(B, H, W): (B, n, n) cells over the picture, smoothed by a cubic B-spline, at columns x and rows y."""
    side = cells.shape[-1]
    for line, dim in ((y, 1), (x, 2)):
        place = (line.flatten() + 1) * (side / 2) - 0.5
        t = place - place.floor()
        weights = ((1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, 3 * (t + t**2 - t**3) + 1, t**3)
        total: Tensor | float = 0.0
        for tap, weight in enumerate(weights):
            index = (place.floor().long() + tap - 1).clamp(0, side - 1)
            index, weight = (index[:, None], weight[:, None]) if dim == 1 else (index, weight)
            shape = (len(cells), len(place), side) if dim == 1 else (*cells.shape[:2], len(place))
            total = total + cells.gather(dim, index.expand(shape)) * (weight / 6)
        cells = torch.as_tensor(total)
    return cells


@functools.cache
def _outlines() -> Tensor:
    """(4, shapes * variants * bins): what a petal's outline needs at each direction from its middle.

    The petal spans [-1, 1] along its axis X and across it Y; B is its edge's distance from the middle.
    The rows are 1 / B, the two parts of the gradient of rho / B at the edge, and the light on its folds.
    """
    random = np.random.Generator(np.random.Philox(key=[0, 3]))
    angle = (np.arange(_BINS) + 0.5) * (2 * math.pi / _BINS) - math.pi
    along = -np.cos(np.linspace(0, math.pi, 4001))
    round_edge = np.sqrt(1 - along**2)
    profiles = {
        "rounded": round_edge * (0.74 + 0.26 * along),
        "pointed": (1 + along) ** 0.6 * (1 - along) ** 1.05,
        "ruffled": (1 - along**2) ** 0.42 * (0.66 + 0.34 * along),
        "slender": (1 - along**2) ** 0.40 * (0.9 + 0.1 * along),
    }
    rows = []
    for shape in ATTRIBUTES["shape"]:
        across = profiles[shape] / profiles[shape].max()
        half = np.interp(np.abs(angle), np.arctan2(across, along)[::-1], np.hypot(along, across)[::-1])
        for _ in range(_VARIANTS):
            phase = random.uniform(0, 2 * math.pi, 4)
            edge = half * (1 + 0.018 * sum(np.cos(k * angle + phase[k]) for k in (1, 2, 3)))
            fold = np.zeros_like(angle)
            outer = 1 / (1 + np.exp(-6 * (np.cos(angle) + 0.35)))
            if shape == "ruffled":
                wave = random.integers(10, 13) * angle + phase[0] + 0.8 * np.sin(2 * angle + phase[1])
                edge *= 1 + outer * (0.085 * np.cos(wave) + 0.03 * np.cos(1.7 * wave + phase[2]))
                fold = outer * np.cos(wave + 0.9)
            slope = (np.roll(edge, -1) - np.roll(edge, 1)) / (4 * math.pi / _BINS) / edge**2
            x, y = np.cos(angle), np.sin(angle)
            rows.append(np.stack([1 / edge, x / edge + y * slope, y / edge - x * slope, fold]))
    return torch.from_numpy(np.concatenate(rows, axis=1).astype(np.float32))


Planes = list[Tensor]  # the red, the green and the blue of B pictures: three (B, H, W)


def _lay(picture: Planes, colour: Tensor, shade: Tensor | None, alpha: Tensor) -> Planes:
    """``picture`` under a layer of one ``colour`` (B, 3) times ``shade``, as opaque as ``alpha``."""
    tones = [_flat(colour[:, c]) for c in range(3)]
    return [
        torch.lerp(plane, (tone if shade is None else tone * shade).expand_as(plane), alpha)
        for plane, tone in zip(picture, tones, strict=True)
    ]


def _backdrop(draws: _Draws, kind: Tensor, place: Tensor) -> Planes:
    """Out-of-focus garden on its own coarse grid; ``place`` (B, 2) is where the flower's stem ends."""
    line = _line(_BACKDROP)
    x, y = line[None, None, :], line[None, :, None]
    ground = _rows(_GROUND, kind) * (1 + draws(-0.12, 0.12, 1, 3))  # (B, 4, 3)
    things = _rows(_THINGS, kind)
    cloud, patch = _enlarge(draws(-1, 1, 5, 5), x, y), _enlarge(draws(-1, 1, 10, 10), x, y)
    share = 0.5 + 0.8 * cloud + 0.4 * patch + _flat(torch.where(kind == _SKY, 0.35, 0.12)) * y
    share = share.clamp(0, 1)
    picture = [torch.lerp(_flat(ground[:, 0, c]), _flat(ground[:, 1, c]), share) for c in range(3)]
    centre, size = draws(-1.1, 1.1, _BLOBS, 2), draws(0.55, 1.35, _BLOBS)
    upright = torch.where(kind == _GRASS, math.pi / 2, 0.0)[:, None]
    turn = upright + draws(-math.pi, math.pi, _BLOBS) * things[:, 4:5]
    tone = draws(0, 1, _BLOBS, 1) ** 1.5
    strength, softness = draws(0.45, 1, _BLOBS) * things[:, 5:6], things[:, 2:3] * draws(0.8, 2.6, _BLOBS)
    leafy, colour = _flat(1 - things[:, 3]), torch.lerp(ground[:, 2:3], ground[:, 3:4], tone)
    for k in range(_BLOBS):
        dx, dy = x - _flat(centre[:, k, 0]), y - _flat(centre[:, k, 1])
        cosine, sine = turn[:, k].cos() / size[:, k], turn[:, k].sin() / size[:, k]
        u = (dx * _flat(cosine) + dy * _flat(sine)) / _flat(things[:, 0])
        v = (dy * _flat(cosine) - dx * _flat(sine)) / _flat(things[:, 1])
        inside = 1 - u * u - torch.lerp(v * v, v.abs(), leafy)
        alpha = _step(inside / _flat(softness[:, k])) * _flat(strength[:, k])
        picture = _lay(picture, colour[:, k], 1 + leafy * (0.16 * (v * 3).clamp(-1, 1) + 0.12 * u), alpha)
    spot, wide = draws(-1, 1, _BOKEH, 2), draws(0.06, 0.17, _BOKEH)
    glint = draws(0.0, 0.5, _BOKEH) * (kind != _SKY)[:, None]
    for k in range(_BOKEH):
        far = torch.hypot(x - _flat(spot[:, k, 0]), y - _flat(spot[:, k, 1])) / _flat(wide[:, k])
        alpha = _step((1 - far) / 0.5) * (0.75 + 0.25 * far) * _flat(glint[:, k])
        picture = _lay(picture, ground[:, 3] * 1.35 + 0.06, None, alpha)
    reach = y - _flat(place[:, 1])
    stem = (x - _flat(place[:, 0]) - _flat(draws(-0.35, 0.35)) * reach * reach) / 0.055
    green = torch.tensor((0.30, 0.44, 0.16)) * torch.where(kind == _NIGHT, 0.5, 1.0)[:, None]
    alpha = _step((1.7 - stem.abs()) / 1.2) * (reach > 0) * 0.9
    return _lay(picture, green, 1 - 0.3 * stem.clamp(-1, 1), alpha)


def _hazy(picture: Planes, sun: Tensor, light: Tensor) -> Planes:
    """The backdrop in the day's light: a low sun glows through, a grey sky flattens, a high sun does little."""
    line = _line(_BACKDROP)
    x, y = line[None, None, :], line[None, :, None]
    glow = _step((2.1 - torch.hypot(x - 1.1 * _flat(sun.cos()), y - 1.1 * _flat(sun.sin()))) / 2.1)
    return [plane + (1 - plane) * glow * _flat(_rows(_HAZE, light)[:, c]) for c, plane in enumerate(picture)]


class _Frame:
    """Where the flower is: its own coordinates at each pixel (B, H, W), and the light on it."""

    def __init__(self, draws: _Draws, chosen: dict[str, Tensor]) -> None:
        low = torch.tensor((0.66, 0.78, 0.90))[chosen["size"]]
        self.radius = low + draws(0, 0.05)
        self.place = draws(-1, 1, 2) * (0.16 - 0.13 * self.radius)[:, None]
        # a petal points up, more or less: with any turn, the number of petals takes far longer to learn
        self.tilt, self.squeeze, self.turn = draws(0, math.pi), draws(0.86, 1.0), draws(-0.2, 0.2) - math.pi / 2
        self.disc = torch.maximum(draws(0.25, 0.30), 0.19 / self.radius)
        self.sun = draws(-2.6, -0.5)
        self.light = _rows(_LIGHT, chosen["light"])
        self.behind = torch.where(chosen["background"] == _SKY, 0.08, 0.42)

    def look(self, x: Tensor, y: Tensor, side: int) -> None:
        """Set the pixels to those of columns x and rows y (picture units) of a picture of this side."""
        dx, dy = x - _flat(self.place[:, 0]), y - _flat(self.place[:, 1])
        cosine, sine = _flat(self.tilt.cos()), _flat(self.tilt.sin())
        p, q = dx * cosine + dy * sine, (dy * cosine - dx * sine) / _flat(self.squeeze)
        scale = _flat(1 / self.radius)
        self.x, self.y = (p * cosine - q * sine) * scale, (p * sine + q * cosine) * scale
        self.r = torch.hypot(self.x, self.y)
        self.angle = torch.atan2(self.y, self.x) - _flat(self.turn)
        self.pixels = _flat(self.radius) * (side / 2)  # pixels in one flower unit

    def shadow(self) -> Tensor:
        """The soft shadow the flower throws on what lies behind it, away from the sun."""
        far = torch.hypot(self.x + 0.16 * _flat(self.sun.cos()), self.y + 0.16 * _flat(self.sun.sin()))
        return 1 - _flat(self.behind) * _step((1.25 - far) / 0.8)

    def cover(self, distance: Tensor) -> Tensor:
        """How much of a pixel lies inside an edge ``distance`` flower units away (positive inside)."""
        return _step(distance / (1.5 / self.pixels + 0.010) + 0.5)

    def fine(self, period: float | Tensor) -> Tensor:
        """1 where a pattern of this period (flower units) spans enough pixels to be seen, else 0."""
        return _step((self.pixels * period - 2) / 3)


class _Petals:
    """The petals' own numbers, (B, 10) each, and what is drawn of them at a frame's pixels."""

    def __init__(self, draws: _Draws, chosen: dict[str, Tensor], frame: _Frame) -> None:
        self.number, shape = chosen["petals"] + 4, chosen["shape"]
        self.spacing = 2 * math.pi / self.number
        shift = draws(-0.09, 0.09, _MOST_PETALS) * self.spacing[:, None]
        axis = torch.arange(_MOST_PETALS) * self.spacing[:, None] + shift + frame.turn[:, None]
        self.cosine, self.sine = axis.cos(), axis.sin()
        wide = 0.70 * (math.pi / self.number).tan()
        widths = [
            (1.14 * wide).clamp(max=0.47),
            wide.clamp(max=0.33),
            (1.2 * wide).clamp(max=0.50),
            (0.46 * wide).clamp(max=0.125),
        ]
        self.width = torch.stack(widths, 1).gather(1, shape[:, None]) * draws(0.92, 1.06, _MOST_PETALS)
        self.length, self.depth = draws(0.90, 1.0, _MOST_PETALS), draws(0, 1, _MOST_PETALS)
        variant = draws(0, _VARIANTS, _MOST_PETALS).long().clamp(max=_VARIANTS - 1)
        self.outline = (shape[:, None] * _VARIANTS + variant) * _BINS
        self.streak = draws(-1, 1, _MOST_PETALS, _STREAKS)
        sun, self.strength = frame.sun[:, None] - axis, frame.light[:, :1]
        self.across = self.strength * (0.24 * sun.sin() + draws(-0.10, 0.10, _MOST_PETALS))
        self.along = self.strength * 0.26 * sun.cos()
        self.curl, self.tone = draws(0.11, 0.66, _MOST_PETALS), draws(0.93, 1.05, _MOST_PETALS)
        self.mottle = draws(-1, 1, 12, 12)
        vary = 1 + draws(-0.05, 0.05, 1) + draws(-0.025, 0.025, 3)
        self.body, self.tip = _rows(_PETAL, chosen["colour"]) * vary, _rows(_TIP, chosen["colour"]) * vary
        pale = torch.tensor((0.93, 0.90, 0.62)).expand_as(self.body)
        self.throat = torch.lerp(self.body * 0.62, pale, draws(-0.6, 0.6, 1).clamp(min=0))
        self.depth_of_throat, self.rim = draws(0.2, 0.9), draws(-0.10, 0.16)

    def lay(self, frame: _Frame, picture: Planes, mottle: Tensor) -> Planes:
        """``picture`` under the petals: at each pixel the two nearest in angle, the deeper one below."""
        near = _nearest(frame.angle, _flat(self.spacing))
        side = torch.where(frame.angle > near * _flat(self.spacing), 1.0, -1.0)
        number = _flat(self.number)
        petal = torch.remainder(torch.stack([near, near + side]), number).long()  # (2, B, H, W)
        petal = petal + torch.arange(len(number))[:, None, None] * _MOST_PETALS
        reach, breadth = _at(self.length, petal), _at(self.width, petal)
        cosine, sine = _at(self.cosine, petal), _at(self.sine, petal)
        u = (frame.x * cosine + frame.y * sine) / reach  # along, 0 to 1, and across, -1 to 1
        across = (frame.y * cosine - frame.x * sine) / breadth
        distance, rho, fold = self._edge(petal, u, across, 0.48 * reach, breadth)
        u = u.clamp(0, 1)
        shade = self._shade(frame, petal, u, across, breadth) + 0.25 * fold * rho.clamp(max=1) ** 2
        hollow = 1 - 0.38 * _fade((_flat(frame.disc) - frame.r).clamp(max=0) / 0.07)
        shade = (shade + 0.09 * mottle) * _at(self.tone, petal) * hollow
        alpha = frame.cover(distance)
        over = _at(self.depth, petal[0]) > _at(self.depth, petal[1])  # the first lies over the second
        gap = torch.where(over, distance[0], distance[1])
        dark = 1 - _flat(0.22 + 0.18 * self.strength[:, 0]) * _fade(gap.clamp(max=0) / 0.055)
        shade = shade * torch.stack([torch.where(over, 1.0, dark), torch.where(over, dark, 1.0)])
        shade = shade + _flat(self.rim) * _fade(-distance.clamp(min=0) / 0.03)
        first = alpha[0] * torch.where(over, 1.0, 1 - alpha[1])
        second = alpha[1] * torch.where(over, 1 - alpha[0], 1.0)
        colours = self._colours(u, shade)
        return [
            plane * (1 - first - second) + colour[0] * first + colour[1] * second
            for plane, colour in zip(picture, colours, strict=True)
        ]

    def _edge(
        self, petal: Tensor, u: Tensor, across: Tensor, half: Tensor, breadth: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Distance inside the petal's edge (flower units), how far out (1 at the edge), light on folds."""
        along = (u - 0.52) / 0.48
        rho = torch.hypot(along, across)
        bins = (torch.atan2(across, along) * (_BINS / (2 * math.pi)) + _BINS / 2).long().clamp(0, _BINS - 1)
        bins = bins + _at(self.outline, petal)
        inverse, slope_s, slope_t, fold = (_at(row, bins) for row in _outlines())
        rho = rho * inverse
        return (1 - rho) / torch.hypot(slope_s / half, slope_t / breadth), rho, fold

    def _shade(self, frame: _Frame, petal: Tensor, u: Tensor, across: Tensor, breadth: Tensor) -> Tensor:
        """Light on the petal, 1 on the flat: its bend across and along, its crease, streaks and veins."""
        shade = 1.07 + _at(self.across, petal) * across.clamp(-1, 1) + _at(self.along, petal) * (u - 0.45)
        shade = shade - _at(self.curl, petal) * (u - 0.62) ** 2
        shade = shade - 0.12 * (1 - u) * _fade((across * across) * (-1 / 0.12**2))
        fan = (across / (0.35 + 0.65 * u)).clamp(-1, 1)
        position = (fan + 1) * ((_STREAKS - 1.001) / 2)
        cell = position.long()
        first = petal * _STREAKS + cell
        rib = torch.lerp(_at(self.streak, first), _at(self.streak, first + 1), position - cell)
        veins = _wave(fan * 6 + 0.5 * rib) * frame.fine(0.16 * breadth)
        return shade + (0.055 * rib + 0.045 * veins) * (1.15 - u)

    def _colours(self, u: Tensor, shade: Tensor) -> list[Tensor]:
        """Three (2, B, H, W): a shaded petal grows deeper in colour, not greyer; a lit one pales."""
        toward, deep = _step(u), _flat(self.depth_of_throat) * _fade(u * u * (-1 / 0.36**2))
        dark, lit = 1 - shade.clamp(0.2, 1), 0.55 * (shade - 1).clamp(0, 0.6)
        planes = []
        for c in range(3):
            body, tip, throat = (_flat(colour[:, c]) for colour in (self.body, self.tip, self.throat))
            colour = body + (tip - body) * toward
            colour = torch.lerp(colour, throat.expand_as(colour), deep)
            planes.append(colour * (1 - dark * (1.30 - 0.45 * body)) + (1 - colour) * lit)
        return planes


class _Heart:
    """The centre disc, domed, with florets in spirals, and the stamens round it."""

    def __init__(self, draws: _Draws, chosen: dict[str, Tensor], frame: _Frame) -> None:
        self.waves, self.hollow = draws(0, 1, 2), draws(-0.22, 0.12)
        self.colour = _rows(_DISC, chosen["centre"]) * (1 + draws(-0.05, 0.05, 3))
        self.shown = (chosen["stamens"] > 0).float()
        self.number = torch.tensor((6, 6, _MOST_STAMENS))[chosen["stamens"]]
        index = torch.arange(_MOST_STAMENS)
        ring = torch.where(index % 2 == 0, 1.34, 1.66) * draws(0.93, 1.07, _MOST_STAMENS)
        self.reach = frame.disc[:, None] * ring
        self.spacing = 2 * math.pi / self.number
        axis = (index + draws(-0.16, 0.16, _MOST_STAMENS)) * self.spacing[:, None] + frame.turn[:, None] - 0.4
        self.cosine, self.sine = axis.cos(), axis.sin()
        self.size = torch.maximum(torch.tensor(0.042), 0.034 / frame.radius)
        self.anther = _rows(_ANTHER, chosen["colour"])

    def lay(self, frame: _Frame, picture: Planes) -> Planes:
        """``picture`` under the disc."""
        angle, radius = frame.angle / (2 * math.pi), _flat(frame.disc)
        ragged = 1 + 0.035 * _wave(11 * angle + _flat(self.waves[:, 0]))
        q = frame.r / (radius * (ragged + 0.03 * _wave(5 * angle + _flat(self.waves[:, 1]))))
        toward = (frame.x * _flat(frame.sun.cos()) + frame.y * _flat(frame.sun.sin())) / radius
        square = (q * q).clamp(max=1)
        shade = 1.0 - 0.24 * square * square + 0.20 * _flat(frame.light[:, 0]) * toward
        rings = 3.2 * q
        florets = _wave(13 * angle + rings) * _wave(8 * angle - rings)
        coarse = _wave(8 * angle + 0.8 * rings) * _wave(5 * angle - 0.8 * rings)
        seen = frame.fine(0.40 * radius * q.clamp(min=0.2))
        shade = shade + (0.17 * florets * seen + 0.10 * coarse * (1 - seen)) * q.clamp(max=1)
        shade = shade + _flat(self.hollow) * _fade(square * (-1 / 0.38**2)) - 0.22 * _step((q - 0.72) / 0.28)
        alpha = frame.cover((1 - q) * radius)
        dark, lit = shade.clamp(0.15, 1), 0.6 * (shade - 1).clamp(0, 0.5)
        tones = [_flat(self.colour[:, c]) for c in range(3)]
        return [
            torch.lerp(plane, tone * dark + (1 - tone) * lit, alpha) for plane, tone in zip(picture, tones, strict=True)
        ]

    def lay_stamens(self, frame: _Frame, picture: Planes) -> Planes:
        """``picture`` under filaments that end in anthers: none, six or twenty-two."""
        which = _nearest(frame.angle + 0.4, _flat(self.spacing))
        stamen = torch.remainder(which, _flat(self.number)).long()
        stamen = stamen + torch.arange(len(self.number))[:, None, None] * _MOST_STAMENS
        cosine, sine = _at(self.cosine, stamen), _at(self.sine, stamen)
        beyond = frame.x * cosine + frame.y * sine - _at(self.reach, stamen)
        across = frame.y * cosine - frame.x * sine
        anther = _flat(self.size) - torch.hypot(beyond, across)
        thread = torch.minimum(0.35 * _flat(self.size) - across.abs(), -beyond)
        thread = torch.minimum(thread, frame.r - 0.72 * _flat(frame.disc))
        shown = _flat(self.shown)
        shadow = 1 - 0.45 * shown * _fade(anther.clamp(max=0) / 0.025)
        picture = _lay(
            [plane * shadow for plane in picture], 0.65 * self.anther + 0.35, None, 0.75 * shown * frame.cover(thread)
        )
        lit = 0.92 + 0.2 * (beyond / _flat(self.size)).clamp(-1, 1)
        return _lay(picture, self.anther, lit, shown * frame.cover(anther))


def _bands(table: Tensor, chosen: dict[str, Tensor], side: int) -> Iterator[tuple[int, Tensor]]:
    """The group's pictures in bands of rows: the first row, and uint8 (B, rows, side, 3)."""
    draws = _Draws(table)
    frame = _Frame(draws, chosen)
    backdrop = _hazy(_backdrop(draws, chosen["background"], frame.place), frame.sun, chosen["light"])
    petals, heart = _Petals(draws, chosen, frame), _Heart(draws, chosen, frame)
    exposure = 1 + draws(-0.05, 0.05)
    line = _line(side)
    rows = math.ceil(side / math.ceil(side * side * _GROUP / _PIXELS))
    for top in range(0, side, rows):
        x, y = line[None, None, :], line[None, top : top + rows, None]
        frame.look(x, y, side)
        shadow = frame.shadow()
        picture = [_enlarge(plane, x, y) * shadow for plane in backdrop]
        picture = petals.lay(frame, picture, _enlarge(petals.mottle, x, y))
        picture = heart.lay_stamens(frame, heart.lay(frame, picture))
        glow = 0.06 * (x * _flat(frame.sun.cos()) + y * _flat(frame.sun.sin()))
        light = _flat(exposure) * (1 - 0.10 * (x * x + y * y)) + _flat(frame.light[:, 0]) * glow
        lit = [plane * light * _flat(frame.light[:, 1 + c]) for c, plane in enumerate(picture)]
        yield top, torch.stack([(plane.clamp(0, 1) * 255 + 0.5).to(torch.uint8) for plane in lit], dim=-1)

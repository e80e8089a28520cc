"""Renderer of flowers in front of an out-of-focus garden, one batch of images at a time.

Lengths are in *image units*, in which the image spans `[-1, 1]` in x (right) and y (down), or in *flower units*, in
which the flower's radius is 1. Colours are RGB in `[0, 1]`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from stackflower.data.synthetic.attributes import ATTRIBUTES
from stackflower.data.synthetic.garden import SKY, render_backdrop, with_haze
from stackflower.data.synthetic.raster import (
    Draws,
    Planes,
    at,
    composite,
    fade,
    flat,
    nearest,
    pick,
    positions,
    step,
    upsample,
    wave,
)

# Pixels processed at a time. Two values per pixel stay below the 32,768 at which torch splits an operation over its
# threads; each thread renders its own groups of images instead, so that none waits for another. Some operations, such
# as exp, cos and indexing, are split much earlier: `fade`, `wave` and `at` avoid them.
_PIXELS = 16_383
COLUMNS = 1000  # uniform random numbers per image
GROUP = 8  # images rendered together
_MOST_PETALS = 10
_VARIANTS = 8  # outlines per petal shape
_BINS = 1024  # directions per outline
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
# For each light, the strength of its direction, then its colour.
_LIGHT = ((1.25, 1.06, 1.04, 1.00), (0.60, 0.90, 0.92, 0.94), (1.10, 1.04, 0.95, 0.85))


@functools.cache
def outlines() -> Tensor:
    """Compute the table (4, shapes · variants · bins) of petal outlines by direction from the middle of the petal.

    The petal spans `[-1, 1]` along its axis X and across it, Y; B is the distance from the middle to the edge. The rows
    are 1 / B, the two components of the gradient of rho / B at the edge, and the light on the folds.
    """
    random = np.random.Generator(np.random.Philox(key=[0, 3]))
    angle = (np.arange(_BINS) + 0.5) * (2 * math.pi / _BINS) - math.pi
    along = -np.cos(np.linspace(0, math.pi, 4001))
    round_edge = np.sqrt(1 - along**2)
    profiles = {
        "rounded": round_edge * (0.68 + 0.32 * along),
        "pointed": (1 + along) ** 0.5 * (1 - along) ** 1.4,
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
                wave = random.integers(8, 11) * angle + phase[0] + 0.8 * np.sin(2 * angle + phase[1])
                edge *= 1 + outer * (0.12 * np.cos(wave) + 0.03 * np.cos(1.7 * wave + phase[2]))
                fold = outer * np.cos(wave + 0.9)
            gradient = (np.roll(edge, -1) - np.roll(edge, 1)) / (4 * math.pi / _BINS) / edge**2
            x, y = np.cos(angle), np.sin(angle)
            rows.append(np.stack([1 / edge, x / edge + y * gradient, y / edge - x * gradient, fold]))
    return torch.from_numpy(np.concatenate(rows, axis=1).astype(np.float32))


class _Frame:
    """Position and light of the flowers, and their coordinates at each pixel, (B, H, W)."""

    def __init__(self, draws: Draws, chosen: dict[str, Tensor]) -> None:
        low = torch.tensor((0.68, 0.80, 0.92))[chosen["size"]]
        self.radius = low + draws(0, 0.03)
        self.place = draws(-1, 1, 2) * 0.025
        # One petal points roughly up: with random rotations, the number of petals takes far longer to learn.
        self.tilt, self.squeeze, self.turn = draws(0, math.pi), draws(0.93, 1.0), draws(-0.05, 0.05) - math.pi / 2
        self.disc = torch.maximum(draws(0.25, 0.30), 0.19 / self.radius)
        self.sun = draws(-2.6, -0.5)
        self.light = pick(_LIGHT, chosen["light"])
        self.behind = torch.where(chosen["background"] == SKY, 0.08, 0.42)

    def set_pixels(self, x: Tensor, y: Tensor, side: int) -> None:
        """Compute the coordinates at columns x and rows y (image units) of images of `side` pixels."""
        dx, dy = x - flat(self.place[:, 0]), y - flat(self.place[:, 1])
        cosine, sine = flat(self.tilt.cos()), flat(self.tilt.sin())
        p, q = dx * cosine + dy * sine, (dy * cosine - dx * sine) / flat(self.squeeze)
        scale = flat(1 / self.radius)
        self.x, self.y = (p * cosine - q * sine) * scale, (p * sine + q * cosine) * scale
        self.r = torch.hypot(self.x, self.y)
        self.angle = torch.atan2(self.y, self.x) - flat(self.turn)
        self.pixels = flat(self.radius) * (side / 2)  # pixels in one flower unit

    def shadow(self) -> Tensor:
        """Compute the soft shadow of the flower on the background, away from the sun."""
        far = torch.hypot(self.x + 0.16 * flat(self.sun.cos()), self.y + 0.16 * flat(self.sun.sin()))
        return 1 - flat(self.behind) * step((1.25 - far) / 0.8)

    def cover(self, distance: Tensor) -> Tensor:
        """Compute the share of a pixel inside an edge at `distance` flower units (positive inside)."""
        return step(distance / (1.5 / self.pixels + 0.010) + 0.5)

    def fine(self, period: float | Tensor) -> Tensor:
        """Compute how visible a pattern of this period (flower units) is: 1 if it spans enough pixels, 0 if too few."""
        return step((self.pixels * period - 2) / 3)


class _Petals:
    """Petals: their parameters, (B, 10) each, and their rendering at the pixels of a frame."""

    def __init__(self, draws: Draws, chosen: dict[str, Tensor], frame: _Frame) -> None:
        self.number, shape = chosen["petals"] + 4, chosen["shape"]
        self.spacing = 2 * math.pi / self.number
        shift = draws(-0.04, 0.04, _MOST_PETALS) * self.spacing[:, None]
        axis = torch.arange(_MOST_PETALS) * self.spacing[:, None] + shift + frame.turn[:, None]
        self.cosine, self.sine = axis.cos(), axis.sin()
        wide = 0.70 * (math.pi / self.number).tan()
        widths = [
            (0.74 * wide).clamp(max=0.36),  # separate lobes
            wide.clamp(max=0.33),
            (1.35 * wide).clamp(max=0.56),  # overlapping petals, which form a fringed disc
            (0.46 * wide).clamp(max=0.125),
        ]
        self.width = torch.stack(widths, 1).gather(1, shape[:, None]) * draws(0.95, 1.05, _MOST_PETALS)
        self.length = draws(0.95, 1.0, _MOST_PETALS)
        variant = draws(0, _VARIANTS, _MOST_PETALS).long().clamp(max=_VARIANTS - 1)
        self.outline = (shape[:, None] * _VARIANTS + variant) * _BINS
        self.streak = draws(-1, 1, _MOST_PETALS, _STREAKS)
        sun, self.strength = frame.sun[:, None] - axis, frame.light[:, :1]
        self.across = self.strength * (0.24 * sun.sin() + draws(-0.10, 0.10, _MOST_PETALS))
        self.along = self.strength * 0.26 * sun.cos()
        self.curl, self.tone = draws(0.11, 0.66, _MOST_PETALS), draws(0.93, 1.05, _MOST_PETALS)
        self.mottle = draws(-1, 1, 12, 12)
        vary = 1 + draws(-0.05, 0.05, 1) + draws(-0.025, 0.025, 3)
        self.body, self.tip = pick(_PETAL, chosen["colour"]) * vary, pick(_TIP, chosen["colour"]) * vary
        pale = torch.tensor((0.93, 0.90, 0.62)).expand_as(self.body)
        self.throat = torch.lerp(self.body * 0.62, pale, draws(-0.6, 0.6, 1).clamp(min=0))
        self.depth_of_throat, self.rim = draws(0.2, 0.9), draws(-0.10, 0.16)

    def composite(self, frame: _Frame, image: Planes, mottle: Tensor) -> Planes:
        """Render the petals over `image`: at each pixel the two nearest in angle, the farther one behind."""
        near = nearest(frame.angle, flat(self.spacing))
        side = torch.where(frame.angle > near * flat(self.spacing), 1.0, -1.0)
        number = flat(self.number)
        petal = torch.remainder(torch.stack([near, near + side]), number).long()  # (2, B, H, W)
        petal = petal + torch.arange(len(number))[:, None, None] * _MOST_PETALS
        reach, breadth = at(self.length, petal), at(self.width, petal)
        cosine, sine = at(self.cosine, petal), at(self.sine, petal)
        u = (frame.x * cosine + frame.y * sine) / reach  # 0 to 1 along the petal; `across` is -1 to 1
        across = (frame.y * cosine - frame.x * sine) / breadth
        distance, rho, fold = self._edge(petal, u, across, 0.48 * reach, breadth)
        u = u.clamp(0, 1)
        shade = self._shade(frame, petal, u, across, breadth) + 0.40 * fold * rho.clamp(max=1) ** 2
        hollow = 1 - 0.38 * fade((flat(frame.disc) - frame.r).clamp(max=0) / 0.07)
        shade = (shade + 0.09 * mottle) * at(self.tone, petal) * hollow
        alpha = frame.cover(distance)
        over = side < 0  # each petal overlaps the next one, all around, as in a twisted bud
        gap = torch.where(over, distance[0], distance[1])
        dark = 1 - flat(0.22 + 0.18 * self.strength[:, 0]) * fade(gap.clamp(max=0) / 0.055)
        shade = shade * torch.stack([torch.where(over, 1.0, dark), torch.where(over, dark, 1.0)])
        shade = shade + flat(self.rim) * fade(-distance.clamp(min=0) / 0.03)
        first = alpha[0] * torch.where(over, 1.0, 1 - alpha[1])
        second = alpha[1] * torch.where(over, 1 - alpha[0], 1.0)
        colours = self._colours(u, shade)
        return [
            plane * (1 - first - second) + colour[0] * first + colour[1] * second
            for plane, colour in zip(image, colours, strict=True)
        ]

    def _edge(
        self, petal: Tensor, u: Tensor, across: Tensor, half: Tensor, breadth: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Compute distances and folds of a petal.

        Returns:
            The distance inside the petal's edge (flower units), the relative distance from its middle (1 at the edge),
            and the light on its folds.
        """
        along = (u - 0.52) / 0.48
        rho = torch.hypot(along, across)
        bins = (torch.atan2(across, along) * (_BINS / (2 * math.pi)) + _BINS / 2).long().clamp(0, _BINS - 1)
        bins = bins + at(self.outline, petal)
        inverse, gradient_s, gradient_t, fold = (at(row, bins) for row in outlines())
        rho = rho * inverse
        return (1 - rho) / torch.hypot(gradient_s / half, gradient_t / breadth), rho, fold

    def _shade(self, frame: _Frame, petal: Tensor, u: Tensor, across: Tensor, breadth: Tensor) -> Tensor:
        """Compute the light on the petal, 1 where it is flat, from its curvature, crease, streaks and veins."""
        shade = 1.07 + at(self.across, petal) * across.clamp(-1, 1) + at(self.along, petal) * (u - 0.45)
        shade = shade - at(self.curl, petal) * (u - 0.62) ** 2
        shade = shade - 0.12 * (1 - u) * fade((across * across) * (-1 / 0.12**2))
        fan = (across / (0.35 + 0.65 * u)).clamp(-1, 1)
        position = (fan + 1) * ((_STREAKS - 1.001) / 2)
        cell = position.long()
        first = petal * _STREAKS + cell
        rib = torch.lerp(at(self.streak, first), at(self.streak, first + 1), position - cell)
        veins = wave(fan * 6 + 0.5 * rib) * frame.fine(0.16 * breadth)
        return shade + (0.055 * rib + 0.045 * veins) * (1.15 - u)

    def _colours(self, u: Tensor, shade: Tensor) -> list[Tensor]:
        """Compute three planes (2, B, H, W): shade makes a petal more saturated, not greyer; light makes it paler."""
        toward, deep = step(u), flat(self.depth_of_throat) * fade(u * u * (-1 / 0.36**2))
        dark, lit = 1 - shade.clamp(0.2, 1), 0.55 * (shade - 1).clamp(0, 0.6)
        planes = []
        for c in range(3):
            body, tip, throat = (flat(colour[:, c]) for colour in (self.body, self.tip, self.throat))
            colour = body + (tip - body) * toward
            colour = torch.lerp(colour, throat.expand_as(colour), deep)
            planes.append(colour * (1 - dark * (1.30 - 0.45 * body)) + (1 - colour) * lit)
        return planes


class _Centre:
    """Domed centre disc, with florets in spirals, and the stamens around it."""

    def __init__(self, draws: Draws, chosen: dict[str, Tensor], frame: _Frame) -> None:
        self.waves, self.hollow = draws(0, 1, 2), draws(-0.22, 0.12)
        self.colour = pick(_DISC, chosen["centre"]) * (1 + draws(-0.05, 0.05, 3))
        self.shown = (chosen["stamens"] > 0).float()
        self.number = torch.tensor((6, 6, _MOST_STAMENS))[chosen["stamens"]]
        index = torch.arange(_MOST_STAMENS)
        ring = torch.where(index % 2 == 0, 1.34, 1.66) * draws(0.93, 1.07, _MOST_STAMENS)
        self.reach = frame.disc[:, None] * ring
        self.spacing = 2 * math.pi / self.number
        axis = (index + draws(-0.16, 0.16, _MOST_STAMENS)) * self.spacing[:, None] + frame.turn[:, None] - 0.4
        self.cosine, self.sine = axis.cos(), axis.sin()
        self.size = torch.maximum(torch.tensor(0.042), 0.034 / frame.radius)
        self.anther = pick(_ANTHER, chosen["colour"])

    def composite(self, frame: _Frame, image: Planes) -> Planes:
        """Render the disc over `image`."""
        angle, radius = frame.angle / (2 * math.pi), flat(frame.disc)
        ragged = 1 + 0.035 * wave(11 * angle + flat(self.waves[:, 0]))
        q = frame.r / (radius * (ragged + 0.03 * wave(5 * angle + flat(self.waves[:, 1]))))
        toward = (frame.x * flat(frame.sun.cos()) + frame.y * flat(frame.sun.sin())) / radius
        square = (q * q).clamp(max=1)
        shade = 1.0 - 0.24 * square * square + 0.20 * flat(frame.light[:, 0]) * toward
        rings = 3.2 * q
        florets = wave(13 * angle + rings) * wave(8 * angle - rings)
        coarse = wave(8 * angle + 0.8 * rings) * wave(5 * angle - 0.8 * rings)
        seen = frame.fine(0.40 * radius * q.clamp(min=0.2))
        shade = shade + (0.17 * florets * seen + 0.10 * coarse * (1 - seen)) * q.clamp(max=1)
        shade = shade + flat(self.hollow) * fade(square * (-1 / 0.38**2)) - 0.22 * step((q - 0.72) / 0.28)
        alpha = frame.cover((1 - q) * radius)
        dark, lit = shade.clamp(0.15, 1), 0.6 * (shade - 1).clamp(0, 0.5)
        tones = [flat(self.colour[:, c]) for c in range(3)]
        return [
            torch.lerp(plane, tone * dark + (1 - tone) * lit, alpha) for plane, tone in zip(image, tones, strict=True)
        ]

    def composite_stamens(self, frame: _Frame, image: Planes) -> Planes:
        """Render none, six or twenty-two stamens, filaments that end in anthers, over `image`."""
        which = nearest(frame.angle + 0.4, flat(self.spacing))
        stamen = torch.remainder(which, flat(self.number)).long()
        stamen = stamen + torch.arange(len(self.number))[:, None, None] * _MOST_STAMENS
        cosine, sine = at(self.cosine, stamen), at(self.sine, stamen)
        beyond = frame.x * cosine + frame.y * sine - at(self.reach, stamen)
        across = frame.y * cosine - frame.x * sine
        anther = flat(self.size) - torch.hypot(beyond, across)
        thread = torch.minimum(0.35 * flat(self.size) - across.abs(), -beyond)
        thread = torch.minimum(thread, frame.r - 0.72 * flat(frame.disc))
        shown = flat(self.shown)
        shadow = 1 - 0.45 * shown * fade(anther.clamp(max=0) / 0.025)
        image = composite(
            [plane * shadow for plane in image], 0.65 * self.anther + 0.35, None, 0.75 * shown * frame.cover(thread)
        )
        lit = 0.92 + 0.2 * (beyond / flat(self.size)).clamp(-1, 1)
        return composite(image, self.anther, lit, shown * frame.cover(anther))


def bands(table: Tensor, chosen: dict[str, Tensor], side: int) -> Iterator[tuple[int, Tensor]]:
    """Render the images of a group in bands of rows.

    Args:
        table: uniform random numbers (B, `COLUMNS`).
        chosen: for each attribute, the indices (B,) of its values.
        side: height and width of the images.

    Yields:
        The first row of a band, and its pixels, uint8 (B, rows, side, 3).
    """
    draws = Draws(table)
    frame = _Frame(draws, chosen)
    backdrop = with_haze(render_backdrop(draws, chosen["background"], frame.place), frame.sun, chosen["light"])
    petals, centre = _Petals(draws, chosen, frame), _Centre(draws, chosen, frame)
    exposure = 1 + draws(-0.05, 0.05)
    line = positions(side)
    rows = math.ceil(side / math.ceil(side * side * GROUP / _PIXELS))
    for top in range(0, side, rows):
        x, y = line[None, None, :], line[None, top : top + rows, None]
        frame.set_pixels(x, y, side)
        shadow = frame.shadow()
        image = [upsample(plane, x, y) * shadow for plane in backdrop]
        image = petals.composite(frame, image, upsample(petals.mottle, x, y))
        image = centre.composite_stamens(frame, centre.composite(frame, image))
        glow = 0.06 * (x * flat(frame.sun.cos()) + y * flat(frame.sun.sin()))
        light = flat(exposure) * (1 - 0.10 * (x * x + y * y)) + flat(frame.light[:, 0]) * glow
        lit = [plane * light * flat(frame.light[:, 1 + c]) for c, plane in enumerate(image)]
        yield top, torch.stack([(plane.clamp(0, 1) * 255 + 0.5).to(torch.uint8) for plane in lit], dim=-1)

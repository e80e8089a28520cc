"""The background of a synthetic flower: a blurred garden, sky or deep shade, and the haze of the light."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from stackflower.data.synthetic.raster import Draws, Planes, composite, flat, pick, positions, step, upsample

_BACKDROP = 48  # side of the grid on which the (blurred) background is rendered
_BLOBS, _BOKEH = 14, 5
_GRASS, SKY, _NIGHT = 1, 3, 4
# For each background: two colours of the ground and two of the objects in front of it.
_GROUND = (
    ((0.07, 0.17, 0.06), (0.20, 0.36, 0.12), (0.16, 0.36, 0.10), (0.44, 0.60, 0.24)),
    ((0.20, 0.36, 0.09), (0.44, 0.58, 0.18), (0.32, 0.52, 0.12), (0.66, 0.76, 0.32)),
    ((0.20, 0.13, 0.09), (0.40, 0.29, 0.20), (0.28, 0.19, 0.13), (0.56, 0.44, 0.33)),
    ((0.42, 0.60, 0.82), (0.66, 0.79, 0.92), (0.74, 0.84, 0.93), (0.93, 0.95, 0.97)),
    ((0.02, 0.03, 0.03), (0.06, 0.09, 0.06), (0.04, 0.07, 0.04), (0.14, 0.20, 0.12)),
)
# For each background, the objects: length, breadth, softness, roundness (0 for a leaf, 1 for an ellipse), spread of
# directions, opacity.
_OBJECTS = (
    (0.62, 0.26, 0.35, 0.15, 1.0, 0.85),
    (0.95, 0.075, 0.7, 0.0, 0.16, 0.8),
    (0.17, 0.13, 0.7, 1.0, 1.0, 0.75),
    (0.75, 0.26, 1.0, 1.0, 0.12, 0.55),
    (0.50, 0.28, 0.6, 0.5, 1.0, 0.7),
)
# For each light, the haze added on the side of the sun, by channel.
_HAZE = ((0.03, 0.03, 0.02), (0.05, 0.06, 0.07), (0.34, 0.17, 0.02))


def render_backdrop(draws: Draws, kind: Tensor, place: Tensor) -> Planes:
    """Render the out-of-focus garden on a coarse grid of its own.

    Args:
        draws: random draws of the images.
        kind: indices (B,) of the backgrounds.
        place: positions (B, 2) of the flowers, where their stems end, in image units.
    """
    line = positions(_BACKDROP)
    x, y = line[None, None, :], line[None, :, None]
    ground = pick(_GROUND, kind) * (1 + draws(-0.12, 0.12, 1, 3))  # (B, 4, 3)
    objects = pick(_OBJECTS, kind)
    cloud, patch = upsample(draws(-1, 1, 5, 5), x, y), upsample(draws(-1, 1, 10, 10), x, y)
    share = 0.5 + 0.8 * cloud + 0.4 * patch + flat(torch.where(kind == SKY, 0.35, 0.12)) * y
    share = share.clamp(0, 1)
    image = [torch.lerp(flat(ground[:, 0, c]), flat(ground[:, 1, c]), share) for c in range(3)]
    centre, size = draws(-1.1, 1.1, _BLOBS, 2), draws(0.55, 1.35, _BLOBS)
    upright = torch.where(kind == _GRASS, math.pi / 2, 0.0)[:, None]
    turn = upright + draws(-math.pi, math.pi, _BLOBS) * objects[:, 4:5]
    tone = draws(0, 1, _BLOBS, 1) ** 1.5
    strength, softness = draws(0.45, 1, _BLOBS) * objects[:, 5:6], objects[:, 2:3] * draws(0.8, 2.6, _BLOBS)
    leafy, colour = flat(1 - objects[:, 3]), torch.lerp(ground[:, 2:3], ground[:, 3:4], tone)
    for k in range(_BLOBS):
        dx, dy = x - flat(centre[:, k, 0]), y - flat(centre[:, k, 1])
        cosine, sine = turn[:, k].cos() / size[:, k], turn[:, k].sin() / size[:, k]
        u = (dx * flat(cosine) + dy * flat(sine)) / flat(objects[:, 0])
        v = (dy * flat(cosine) - dx * flat(sine)) / flat(objects[:, 1])
        inside = 1 - u * u - torch.lerp(v * v, v.abs(), leafy)
        alpha = step(inside / flat(softness[:, k])) * flat(strength[:, k])
        image = composite(image, colour[:, k], 1 + leafy * (0.16 * (v * 3).clamp(-1, 1) + 0.12 * u), alpha)
    spot, wide = draws(-1, 1, _BOKEH, 2), draws(0.06, 0.17, _BOKEH)
    glint = draws(0.0, 0.5, _BOKEH) * (kind != SKY)[:, None]
    for k in range(_BOKEH):
        far = torch.hypot(x - flat(spot[:, k, 0]), y - flat(spot[:, k, 1])) / flat(wide[:, k])
        alpha = step((1 - far) / 0.5) * (0.75 + 0.25 * far) * flat(glint[:, k])
        image = composite(image, ground[:, 3] * 1.35 + 0.06, None, alpha)
    reach = y - flat(place[:, 1])
    stem = (x - flat(place[:, 0]) - flat(draws(-0.35, 0.35)) * reach * reach) / 0.055
    green = torch.tensor((0.30, 0.44, 0.16)) * torch.where(kind == _NIGHT, 0.5, 1.0)[:, None]
    alpha = step((1.7 - stem.abs()) / 1.2) * (reach > 0) * 0.9
    return composite(image, green, 1 - 0.3 * stem.clamp(-1, 1), alpha)


def with_haze(image: Planes, sun: Tensor, light: Tensor) -> Planes:
    """Add the haze of the light to a backdrop: strongest on the side of a low sun, weak in soft or bright light."""
    line = positions(_BACKDROP)
    x, y = line[None, None, :], line[None, :, None]
    glow = step((2.1 - torch.hypot(x - 1.1 * flat(sun.cos()), y - 1.1 * flat(sun.sin()))) / 2.1)
    return [plane + (1 - plane) * glow * flat(pick(_HAZE, light)[:, c]) for c, plane in enumerate(image)]

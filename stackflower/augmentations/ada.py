"""Adaptive discriminator augmentation."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Literal

import torch
from annotated_types import MinLen
from torch import Tensor

from stackflower.augmentations.base import Augmentation
from stackflower.declarations import Not, Requirement
from stackflower.options import Count, Share
from stackflower.registry import register

LUMA_COMPONENT = 3**-0.5  # each component of the unit vector along the grey axis of RGB
UPDATE_INTERVAL = 4  # steps between updates of p

Transforms = Literal["blit", "geometric", "colour"]


@register("augmentation", "ada")
class AdaptiveAugmentation(Augmentation):
    """Adaptive discriminator augmentation (Karras et al. 2020, section 3), following the scores of real images.

    Every transformation is applied with probability p. Every four steps, p is increased if E[sign D(x)] exceeds
    `target`, and decreased otherwise. With a relativistic objective, sign(D(x) − D(G(z))) replaces sign D(x).

    The transformations are the paper's "bgc" with its distributions: pixel blitting (mirroring, rotation by 90°,
    whole-pixel translation), geometric (scaling, rotation, anisotropic scaling, translation) and colour (brightness,
    contrast, luma flip, hue, saturation). Resampling is bilinear, without the paper's band-limiting filter; edges are
    mirrored.

    Args:
        transforms: groups of transformations to apply.
        target: value at which E[sign D(x)] is held; 0.6 in the paper. 0 keeps p fixed.
        strength: initial value of p.
        ramp: number of images in which p can rise from 0 to 1; 500,000 in the paper.
    """

    requires = (
        Requirement(
            "signed scores",
            of="objective",
            why="follows the sign of the scores of real images, which is meaningless with {other}",
            when={"target": Not(0)},
        ),
    )

    dim = 28
    strength: Tensor
    sign: Tensor

    def __init__(
        self,
        *,
        transforms: Annotated[tuple[Transforms, ...], MinLen(1)] = ("blit", "geometric", "colour"),
        target: Share = 0.6,
        strength: Share = 0.0,
        ramp: Count = 500_000,
    ):
        super().__init__()
        self.transforms, self.target, self.ramp = transforms, target, ramp
        self.adaptive = target > 0
        self.register_buffer("strength", torch.tensor(float(strength)))
        self.register_buffer("sign", torch.zeros(3))  # since the last update: sum of E[sign], steps, images
        self._observed: list[Tensor] = []

    def forward(self, images: Tensor, draws: Tensor) -> Tensor:
        x = images.to(torch.promote_types(images.dtype, torch.float32))
        # positions need more precision than TF32 has; the matrices are small, so double precision is cheap
        draws = draws.to(x.dtype if x.device.type == "mps" else torch.float64)
        if "blit" in self.transforms or "geometric" in self.transforms:
            x = _warp(x, self._draw_geometry(draws[:, :18], x.shape[-1]))
        if "colour" in self.transforms:
            matrix = self._draw_colours(draws[:, 18:])
            matrix = matrix.to(x.dtype)
            x = torch.einsum("nij,njhw->nihw", matrix[:, :3, :3], x) + matrix[:, :3, 3, None, None]
        return x.to(images.dtype)

    def observe(self, real: Tensor, fake: Tensor, relativistic: bool) -> None:
        if self.adaptive:
            self._observed.append((real - fake if relativistic else real).detach().float().sign().mean())

    def measures(self) -> dict[str, Tensor]:
        observed, self._observed = self._observed, []
        return {"real_sign": torch.stack(observed).mean()} if observed else {}

    def after_step(self, measured: Mapping[str, Tensor], images: int) -> dict[str, Tensor]:
        if "real_sign" not in measured:
            return {}
        sign = measured["real_sign"]
        self.sign += torch.stack([sign, torch.ones_like(sign), torch.full_like(sign, images)])
        total, steps, seen = self.sign.clone()
        due = steps >= UPDATE_INTERVAL  # a tensor, which avoids synchronising with the device
        moved = (self.strength + (total / steps - self.target).sign() * seen / self.ramp).clamp(0, 1)
        self.strength.copy_(torch.where(due, moved, self.strength))
        self.sign.mul_(~due)
        return {"real_sign": measured["real_sign"], "augmentation": self.strength.clone()}

    def _apply_randomly(self, draw: Tensor, value: Tensor, neutral: float, chance: Tensor | None = None) -> Tensor:
        """Return `value` where `draw` is below the probability (by default p), and `neutral` elsewhere."""
        chance = self.strength if chance is None else chance
        return torch.where(draw < chance, value, torch.full_like(value, neutral))

    def _draw_geometry(self, draws: Tensor, size: int) -> Tensor:
        """Return matrices `(N, 2, 3)` from output to input positions, in pixels from the centre; uses 18 draws."""
        take = iter(draws.unbind(1)).__next__
        matrix = torch.eye(3, device=draws.device, dtype=draws.dtype).expand(len(draws), 3, 3)
        if "blit" in self.transforms:
            mirror = self._apply_randomly(take(), torch.where(take() < 0.5, 1.0, -1.0).to(draws.dtype), 1.0)
            turn = self._apply_randomly(take(), (take() * 4).floor() * (math.pi / 2), 0.0)
            gate = take()
            shift = [self._apply_randomly(gate, ((2 * take() - 1) * (0.125 * size)).round(), 0.0) for _ in range(2)]
            matrix = (
                matrix
                @ _build_scaling(mirror, torch.ones_like(mirror))
                @ _build_rotation(turn, True)
                @ _build_translation(*shift)
            )
        if "geometric" in self.transforms:
            scale = self._apply_randomly(take(), torch.exp2(0.2 * _to_normal(take())), 1.0)
            single = 1 - (1 - self.strength).sqrt()  # of each rotation, so that at least one applies with probability p
            before, after = (self._apply_randomly(take(), (2 * take() - 1) * math.pi, 0.0, single) for _ in range(2))
            stretch = self._apply_randomly(take(), torch.exp2(0.2 * _to_normal(take())), 1.0)
            gate = take()
            shift = [self._apply_randomly(gate, 0.125 * size * _to_normal(take()), 0.0) for _ in range(2)]
            matrix = matrix @ _build_scaling(1 / scale, 1 / scale) @ _build_rotation(-before)
            matrix = (
                matrix @ _build_scaling(1 / stretch, stretch) @ _build_rotation(-after) @ _build_translation(*shift)
            )
        return matrix[:, :2]

    def _draw_colours(self, draws: Tensor) -> Tensor:
        """Return matrices `(N, 4, 4)` of colours in homogeneous coordinates; uses 10 draws."""
        take = iter(draws.unbind(1)).__next__
        identity = torch.eye(4, device=draws.device, dtype=draws.dtype)
        axis = LUMA_COMPONENT * identity[:3].sum(0)
        grey, last = torch.outer(axis, axis), torch.diag(identity[3])
        brightness = self._apply_randomly(take(), 0.2 * _to_normal(take()), 0.0)
        contrast = self._apply_randomly(take(), torch.exp2(0.5 * _to_normal(take())), 1.0)[:, None, None]
        flip = self._apply_randomly(take(), (take() < 0.5).to(draws.dtype), 0.0)[:, None, None]
        angle = self._apply_randomly(take(), (2 * take() - 1) * math.pi, 0.0)
        saturation = self._apply_randomly(take(), torch.exp2(_to_normal(take())), 1.0)[:, None, None]
        matrix = identity.repeat(len(draws), 1, 1)
        matrix[:, :3, 3] = brightness[:, None]
        matrix = (contrast * (identity - last) + last) @ matrix
        matrix = (identity - 2 * grey * flip) @ matrix
        return (grey + last + (identity - grey - last) * saturation) @ _build_hue_rotation(angle) @ matrix


def _to_normal(draw: Tensor) -> Tensor:
    """Convert uniform to standard normal numbers, limited to ±5."""
    return math.sqrt(2) * torch.erfinv((2 * draw - 1).clamp(-1 + 1e-6, 1 - 1e-6))


def _stack_matrix(rows: list[list[Tensor]]) -> Tensor:
    return torch.stack([torch.stack(row, -1) for row in rows], -2)


def _build_scaling(x: Tensor, y: Tensor) -> Tensor:
    zero = torch.zeros_like(x)
    return _stack_matrix([[x, zero, zero], [zero, y, zero], [zero, zero, zero + 1]])


def _build_translation(x: Tensor, y: Tensor) -> Tensor:
    zero, one = torch.zeros_like(x), torch.ones_like(x)
    return _stack_matrix([[one, zero, x], [zero, one, y], [zero, zero, one]])


def _build_rotation(angle: Tensor, exact: bool = False) -> Tensor:
    """Build rotations by `angle`; with `exact`, multiples of 90° map pixels to pixels exactly."""
    cos, sin = angle.cos(), angle.sin()
    if exact:
        cos, sin = cos.round(), sin.round()
    zero = torch.zeros_like(cos)
    return _stack_matrix([[cos, -sin, zero], [sin, cos, zero], [zero, zero, zero + 1]])


def _build_hue_rotation(angle: Tensor) -> Tensor:
    """Build rotations of colours about the grey axis (Rodrigues' formula)."""
    cos, sin = angle.cos(), angle.sin()
    same = cos + (1 - cos) / 3
    less, more = (1 - cos) / 3 - LUMA_COMPONENT * sin, (1 - cos) / 3 + LUMA_COMPONENT * sin
    zero = torch.zeros_like(cos)
    return _stack_matrix(
        [[same, less, more, zero], [more, same, less, zero], [less, more, same, zero], [zero, zero, zero, zero + 1]]
    )


def _mirror_index(index: Tensor, size: int) -> Tensor:
    """Fold positions into 0 … size − 1 by mirroring at the edges."""
    period = 2 * (size - 1)
    index = index.remainder(period)
    return torch.minimum(index, period - index)


def _warp(x: Tensor, matrix: Tensor) -> Tensor:
    """Sample images bilinearly at the positions given by `matrix` `(N, 2, 3)`.

    Implemented with `gather`, which is twice differentiable, as penalties require; `grid_sample` is not.
    """
    n, c, height, width = x.shape
    down, across = torch.meshgrid(
        torch.arange(height, device=x.device, dtype=x.dtype) - (height - 1) / 2,
        torch.arange(width, device=x.device, dtype=x.dtype) - (width - 1) / 2,
        indexing="ij",
    )
    (a, b, c_x), (d, e, c_y) = (row.unbind(1) for row in matrix[..., None].unbind(1))
    across, down = across.flatten().to(matrix.dtype), down.flatten().to(matrix.dtype)
    u = a * across + b * down + c_x + (width - 1) / 2
    v = d * across + e * down + c_y + (height - 1) / 2
    left, top = u.floor(), v.floor()
    right_share, lower_share = (u - left).to(x.dtype), (v - top).to(x.dtype)
    flat = x.flatten(2)
    total = torch.zeros_like(flat)
    for column, share_x in ((left, 1 - right_share), (left + 1, right_share)):
        for row, share_y in ((top, 1 - lower_share), (top + 1, lower_share)):
            index = _mirror_index(row, height).long() * width + _mirror_index(column, width).long()
            total = total + flat.gather(2, index[:, None].expand(n, c, -1)) * (share_x * share_y)[:, None]
    return total.unflatten(2, (height, width))

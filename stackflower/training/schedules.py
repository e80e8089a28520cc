"""Learning rates over training, counted in images."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from stackflower.config.schema import Optimizer


def learning_rate(settings: Optimizer, images: int, total: int, epoch: int) -> float:
    """The learning rate after `images` of `total` images, where an epoch has `epoch` images."""
    rate = settings.lr
    if settings.halve_every:
        rate *= 0.5 ** int(images / (settings.halve_every * epoch))
    if settings.decay_from < 1:
        rate *= min(1.0, (1 - images / total) / (1 - settings.decay_from))
    return rate


@dataclass
class Plateau:
    """Halves a learning rate whenever a measure has stopped falling (BEGAN, section 4.1).

    The measure of every step is summed on its device; at the end of a window of images its mean is read, and one that is not
    below the best before halves.
    """

    scale: float = 1.0
    best: float = math.inf
    total: float | Tensor = 0.0
    count: int = 0

    def note(self, measure: Tensor) -> None:
        """Take in a step's measure, without waiting for the device."""
        self.total, self.count = self.total + measure, self.count + 1

    def close(self) -> bool:
        """End a window, waiting for the device; whether that halved the rate."""
        mean = float(self.total) / max(self.count, 1)
        halved = mean >= self.best
        if halved:
            self.scale /= 2
        self.best, self.total, self.count = min(self.best, mean), 0.0, 0
        return halved

    def plain(self) -> dict[str, float]:
        """As JSON holds it."""
        return {"scale": self.scale, "best": self.best, "total": float(self.total), "count": self.count}

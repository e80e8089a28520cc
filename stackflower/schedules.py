"""Learning rates over training, counted in images."""

from __future__ import annotations

import math
from dataclasses import dataclass

from stackflower.config import Optimizer


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

    The measure is averaged over windows of a number of images; a window that is not below the best before halves.
    """

    scale: float = 1.0
    best: float = math.inf
    start: int = 0  # images at which this window began
    total: float = 0.0
    count: int = 0

    def note(self, measure: float, images: int, window: float) -> bool:
        """Take in a measure after `images` images; whether that halved the rate."""
        self.total, self.count = self.total + measure, self.count + 1
        if images - self.start < window:
            return False
        mean = self.total / self.count
        halved = mean >= self.best
        if halved:
            self.scale /= 2
        self.best = min(self.best, mean)
        self.start, self.total, self.count = images, 0.0, 0
        return halved

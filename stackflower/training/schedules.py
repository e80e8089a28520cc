"""The length of a training and its learning rates, as functions of the number of images seen."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from torch import Tensor

from stackflower.config.schema import Optimizer

ESTIMATES = 100  # number of times that the length under a time limit is estimated
SPEED_WINDOW = 0.05  # share of the limit over which the speed is measured
FIRST_STEPS = (8, 64)  # minimum and maximum number of steps before the first estimate
PAUSE_SHARE = 0.1  # share of the time that grids and checkpoints may take if no interval is set for them
RESERVED_SHARE = 0.2  # maximum share of the time that is reserved for the last grid and checkpoint
MEDIAN_PAUSES = 5  # number of pauses of a kind whose median predicts the next one


class Length:
    """Length of a training in images, and the share of it that is done.

    The length is fixed from the start, or estimated repeatedly so that the training ends at a time limit (`refit`).
    Each estimate is a knot, from which the share grows linearly to 1 at the estimated total. The run records its knots,
    so that a resumed run repeats them.

    Args:
        knots: (images, share done, estimated total) of each estimate, in order; empty before the first estimate.
    """

    def __init__(self, knots: Sequence[Sequence[float]] = ()):
        self.knots = [(int(images), float(share), int(total)) for images, share, total in knots]

    @classmethod
    def from_total(cls, total: int) -> Length:
        """Create a fixed length of `total` images."""
        return cls([(0, 0.0, total)])

    def _find_knot(self, images: int) -> tuple[int, float, int] | None:
        """Return the last knot at or before `images` images."""
        return next((knot for knot in reversed(self.knots) if knot[0] <= images), None)

    def get_total(self, images: int) -> int | None:
        """Return the length as estimated after `images` images; None before the first estimate."""
        knot = self._find_knot(images)
        return None if knot is None else knot[2]

    def get_share(self, images: int) -> float:
        """Return the share of the training that is done after `images` images."""
        knot = self._find_knot(images)
        if knot is None:
            return 0.0
        first, share, total = knot
        return min(1.0, share + (1 - share) * (images - first) / (total - first)) if total > first else 1.0

    def is_done(self, images: int) -> bool:
        """Return whether training ends after `images` images."""
        total = self.get_total(images)
        return total is not None and images >= total

    def refit(self, images: int, total: int) -> None:
        """Add an estimate, from which the share that is done continues.

        Args:
            images: number of images seen.
            total: estimated length in images.
        """
        share = self.get_share(images)
        self.knots = [knot for knot in self.knots if knot[0] < images] + [(images, share, max(total, images))]


class Pace:
    """Estimator of the number of images that fit into a time limit.

    It uses the recent speed of the steps, and the time that grids and checkpoints take. A pause is anything for which
    the training waits: a grid, a checkpoint or scores.

    Args:
        deadline: end of the limit, by `time.monotonic`.
        limit: the whole limit, in seconds.
        step: number of images per step.
        timed: number of steps before the first estimate, high enough to include every lazy penalty.
        sparing: whether to skip grids and checkpoints that take too long (see `can_pause`).
    """

    def __init__(self, deadline: float, limit: float, step: int, timed: int, sparing: bool = True):
        self.deadline, self.limit, self.step, self.sparing = deadline, limit, step, sparing
        self.timed = min(max(timed, FIRST_STEPS[0]), FIRST_STEPS[1])
        self.marks: deque[tuple[float, int]] = deque()  # times, without pauses, and images seen then
        self.paused = 0.0  # seconds of all pauses
        self.pauses: dict[str, list[float]] = {}  # seconds of each pause, by kind
        self.shares: dict[str, float] = {}  # share of the training done at the latest pause, by kind

    def start(self, images: int) -> None:
        """Start measuring the speed, after the warm-up steps."""
        self.marks.append((time.monotonic(), images))

    def restart(self) -> None:
        """Discard the measured speed, after a return to a checkpoint."""
        self.marks.clear()

    def pause(self, kind: str, seconds: float, share: float) -> None:
        """Record a pause.

        Args:
            kind: kind of pause, such as "grid" or "checkpoint".
            seconds: length of the pause.
            share: share of the training that is done.
        """
        self.pauses.setdefault(kind, []).append(seconds)
        self.paused, self.shares[kind] = self.paused + seconds, share

    def can_pause(self) -> bool:
        """Return whether all pauses, with another one of each kind, take at most a tenth of the elapsed time."""
        return not self.sparing or self.paused + self._estimate_pauses() <= PAUSE_SHARE * (
            self.limit - self.get_seconds_left()
        )

    def get_seconds_left(self) -> float:
        """Return the seconds until the deadline."""
        return max(0.0, self.deadline - time.monotonic())

    def is_due(self, images: int) -> bool:
        """Return whether the next estimate is due after `images` images."""
        if len(self.marks) < 2:
            return bool(self.marks) and images - self.marks[0][1] >= self.timed * self.step
        return time.monotonic() - self.paused - self.marks[-1][0] >= self.limit / ESTIMATES

    def estimate(self, images: int, share: float) -> int:
        """Estimate the length of a training that ends at the deadline, in whole steps.

        Args:
            images: number of images seen.
            share: share of the training that is done.

        Returns:
            The length in images.
        """
        now = time.monotonic()
        active = now - self.paused
        self.marks.append((active, images))
        while len(self.marks) > 2 and active - self.marks[0][0] > SPEED_WINDOW * self.limit:
            self.marks.popleft()
        began, first = self.marks[0]
        speed = (images - first) / max(active - began, 1e-9)
        # a slow checkpoint must not end the training before the learning rate has decayed
        usual = self._estimate_pauses()
        left = max(0.0, self.deadline - now - min(usual, RESERVED_SHARE * self.limit))
        between = sum(self._estimate_remaining_pauses(kind, share) for kind in self.pauses)
        if self.sparing and between:
            between = min(between, usual * max(0, int((PAUSE_SHARE * (self.limit - usual) - self.paused) / usual)))
        training = max(left - between, left / 2)
        return images + math.ceil(training * speed / self.step) * self.step

    def _estimate_pauses(self) -> float:
        """Return the seconds that one pause of each kind takes together."""
        return sum(map(self._estimate_pause, self.pauses))

    def _estimate_pause(self, kind: str) -> float:
        """Return the seconds that the next pause of a kind takes."""
        return median(self.pauses[kind][-MEDIAN_PAUSES:])

    def _estimate_remaining_pauses(self, kind: str, share: float) -> float:
        """Return the seconds of the future pauses of a kind except the last, if they stay as frequent as so far."""
        every = self.shares[kind] / len(self.pauses[kind])
        return self._estimate_pause(kind) * max(0, math.ceil((1 - share) / every - 1e-6) - 1) if every else 0.0


def compute_learning_rate(settings: Optimizer, images: int, share: float, epoch: int) -> float:
    """Compute the learning rate of a step.

    Args:
        settings: settings of the optimizer.
        images: number of images seen.
        share: share of the training that is done.
        epoch: number of images per pass over the data.
    """
    rate = settings.lr
    if settings.halve_every:
        rate *= 0.5 ** int(images / (settings.halve_every * epoch))
    if settings.decay_from < 1:
        rate *= min(1.0, (1 - share) / (1 - settings.decay_from))
    return rate


@dataclass
class Plateau:
    """Scale of a learning rate that is halved whenever a measure stops falling (Berthelot et al. 2017, section 4.1).

    The measure of each step is summed on its device. At the end of a window of images, the mean is read, and the scale
    is halved unless the mean is lower than the lowest so far.

    Args:
        scale: scale of the learning rate.
        best: lowest mean of a window so far.
        total: sum of the measures in the current window.
        count: number of steps in the current window.
    """

    scale: float = 1.0
    best: float = math.inf
    total: float | Tensor = 0.0
    count: int = 0

    def add(self, measure: Tensor) -> None:
        """Add the measure of a step, without waiting for the device."""
        self.total, self.count = self.total + measure, self.count + 1

    def close(self) -> bool:
        """End a window and return whether the scale was halved. Waits for the device."""
        mean = float(self.total) / max(self.count, 1)
        halved = mean >= self.best
        if halved:
            self.scale /= 2
        self.best, self.total, self.count = min(self.best, mean), 0.0, 0
        return halved

    def to_dict(self) -> dict[Any, Any]:
        """Convert to JSON types; ``Plateau(**values)`` is the inverse."""
        return {"scale": self.scale, "best": self.best, "total": float(self.total), "count": self.count}

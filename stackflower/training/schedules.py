"""The length of a training and the learning rates over it, counted in images."""

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

REFITS = 100  # how often a time limit's length is estimated anew
WINDOW = 0.05  # share of the limit over which the speed is measured
TIMED = (8, 64)  # steps of the first estimate, at least and at most
PAUSES = 0.1  # share of the time that grids and checkpoints may take, where they come by themselves
LAST = 0.2  # share of the time that is reserved for the last grid and checkpoint at most
LATEST = 5  # pauses of a kind whose median is expected of the next


class Length:
    """Length of a training in images, and the share of it that is done.

    It is fixed from the start, or re-estimated to end at a time limit (`refit`). Every estimate is a knot, from which
    the share grows linearly to 1 at the estimated total. The run keeps its knots, so that a resumed run repeats them.

    Args:
        knots: (images, share done, estimated total) of each estimate, in order; none: nothing is known yet.
    """

    def __init__(self, knots: Sequence[Sequence[float]] = ()):
        self.knots = [(int(images), float(share), int(total)) for images, share, total in knots]

    @classmethod
    def from_total(cls, total: int) -> Length:
        """Create a length of `total` images."""
        return cls([(0, 0.0, total)])

    def _find_knot(self, images: int) -> tuple[int, float, int] | None:
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
        """Add an estimate made after `images` images; the share that is done continues from its current value."""
        share = self.get_share(images)
        self.knots = [knot for knot in self.knots if knot[0] < images] + [(images, share, max(total, images))]


class Pace:
    """Estimator of how many images fit into a time limit.

    It uses the recent speed of the steps, and the time that grids and checkpoints take.

    Args:
        deadline: end of the limit, by `time.monotonic`.
        limit: seconds of the whole limit.
        step: images per step.
        timed: number of steps before the first estimate, so that they include every lazy penalty.
        sparing: whether to skip grids and checkpoints that take too long (see `can_pause`).
    """

    def __init__(self, deadline: float, limit: float, step: int, timed: int, sparing: bool = True):
        self.deadline, self.limit, self.step, self.sparing = deadline, limit, step, sparing
        self.timed = min(max(timed, TIMED[0]), TIMED[1])
        self.marks: deque[tuple[float, int]] = deque()  # times without pauses, and images
        self.paused = 0.0
        self.pauses: dict[str, list[float]] = {}  # seconds of each grid, checkpoint, score
        self.shares: dict[str, float] = {}  # of the training at the latest of each kind

    def start(self, images: int) -> None:
        """Start the clock, after the warm-up steps."""
        self.marks.append((time.monotonic(), images))

    def restart(self) -> None:
        """Measure the speed again, after a return to a checkpoint."""
        self.marks.clear()

    def pause(self, kind: str, seconds: float, share: float) -> None:
        """Record that a grid, checkpoint or other `kind` of pause took `seconds` at a `share` of the training."""
        self.pauses.setdefault(kind, []).append(seconds)
        self.paused, self.shares[kind] = self.paused + seconds, share

    def can_pause(self) -> bool:
        """Return whether another grid or checkpoint leaves nine tenths of the time so far to the training."""
        return not self.sparing or self.paused + self._estimate_pauses() <= PAUSES * (
            self.limit - self.get_seconds_left()
        )

    def get_seconds_left(self) -> float:
        """Return the seconds until the deadline."""
        return max(0.0, self.deadline - time.monotonic())

    def is_due(self, images: int) -> bool:
        """Return whether it is time for an estimate."""
        if len(self.marks) < 2:
            return bool(self.marks) and images - self.marks[0][1] >= self.timed * self.step
        return time.monotonic() - self.paused - self.marks[-1][0] >= self.limit / REFITS

    def estimate(self, images: int, share: float) -> int:
        """Estimate the length that ends at the deadline, in whole steps.

        Args:
            images: number of images seen.
            share: share of the training that is done.
        """
        now = time.monotonic()
        active = now - self.paused
        self.marks.append((active, images))
        while len(self.marks) > 2 and active - self.marks[0][0] > WINDOW * self.limit:
            self.marks.popleft()
        began, first = self.marks[0]
        speed = (images - first) / max(active - began, 1e-9)
        # a checkpoint that took most of the time must not end the training before the learning rate has fallen
        usual = self._estimate_pauses()
        left = max(0.0, self.deadline - now - min(usual, LAST * self.limit))
        between = sum(self._estimate_remaining_pauses(kind, share) for kind in self.pauses)
        if self.sparing and between:
            between = min(between, usual * max(0, int((PAUSES * (self.limit - usual) - self.paused) / usual)))
        training = max(left - between, left / 2)
        return images + math.ceil(training * speed / self.step) * self.step

    def _estimate_pauses(self) -> float:
        """Return the seconds that one pause of every kind takes."""
        return sum(map(self._estimate_pause, self.pauses))

    def _estimate_pause(self, kind: str) -> float:
        return median(self.pauses[kind][-LATEST:])

    def _estimate_remaining_pauses(self, kind: str, share: float) -> float:
        """Return the seconds of the pauses of a kind before the last one, if they come as often as before."""
        every = self.shares[kind] / len(self.pauses[kind])
        return self._estimate_pause(kind) * max(0, math.ceil((1 - share) / every - 1e-6) - 1) if every else 0.0


def compute_learning_rate(settings: Optimizer, images: int, share: float, epoch: int) -> float:
    """Return the learning rate after `images` images, at a `share` of the training, with `epoch` images per epoch."""
    rate = settings.lr
    if settings.halve_every:
        rate *= 0.5 ** int(images / (settings.halve_every * epoch))
    if settings.decay_from < 1:
        rate *= min(1.0, (1 - share) / (1 - settings.decay_from))
    return rate


@dataclass
class Plateau:
    """Halves a learning rate whenever a measure has stopped falling (BEGAN, section 4.1).

    The measure of every step is summed on its device. At the end of a window of images its mean is read; the rate is
    halved unless the mean is below the best so far.
    """

    scale: float = 1.0
    best: float = math.inf
    total: float | Tensor = 0.0
    count: int = 0

    def add(self, measure: Tensor) -> None:
        """Add a step's measure, without waiting for the device."""
        self.total, self.count = self.total + measure, self.count + 1

    def close(self) -> bool:
        """End a window, waiting for the device; whether that halved the rate."""
        mean = float(self.total) / max(self.count, 1)
        halved = mean >= self.best
        if halved:
            self.scale /= 2
        self.best, self.total, self.count = min(self.best, mean), 0.0, 0
        return halved

    def to_dict(self) -> dict[Any, Any]:
        """As JSON holds it; `Plateau(**values)` is the inverse."""
        return {"scale": self.scale, "best": self.best, "total": float(self.total), "count": self.count}

"""Choice of the number of CPU threads for torch, by timing the work.

A training step consists of thousands of short parallel regions, each of which waits for its slowest thread. If another
program uses one of two cores, a step with two threads takes several times as long as with one. The fastest number
depends on the networks and on the other load of the machine, so it is measured while the work runs.
"""

from __future__ import annotations

import logging
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from statistics import median
from typing import TypeVar

import torch

logger = logging.getLogger(__name__)

Schedule = list[tuple[int, int]]
"""Pairs of a position (in training: images seen) and the number of threads used from there."""

Batch = TypeVar("Batch", bound=Sized)

RETRY_SECONDS = 60.0  # maximum time between two comparisons
PAUSE_RATIO = 20  # minimum time to the next comparison, relative to the time that the last one cost
TRIAL_ITEMS = 4  # items timed with each number
MIN_TRIAL_SECONDS = 0.5  # a trial with fast items lasts this long, so that a short disturbance does not decide
TRIAL_SECONDS = 5.0  # maximum duration of a trial
RECENT_ITEMS = 3  # number of items whose median detects a slowdown
WINDOW_ITEMS = 15  # number of items whose median is the time of the current number
SLOWDOWN_RATIO = 1.3  # a comparison starts when items take this multiple of the baseline
ABORT_RATIO = 1.5  # a trial ends early at this multiple of the best time, for two items
ABORT_RATIO_ONE_ITEM = 3.0  # the same, for a single item
ABORT_RATIO_FIRST_ITEM = 5.0  # the same, for the first item with a number, which is slower
SWITCH_RATIO = 0.97  # switch to another number if it takes less than this multiple of the time


def list_candidates(most: int) -> list[int]:
    """Return the numbers of threads to compare, in descending order: all, one less, and halves.

    Args:
        most: largest number.
    """
    numbers = {most, max(1, most - 1)}
    while most > 1:
        most //= 2
        numbers.add(most)
    return sorted(numbers, reverse=True)


@dataclass
class Item:
    """A timed item of work.

    Args:
        units: size of the item; its time should be proportional to the size.
    """

    units: int = 1


class ThreadChooser:
    """Chooser of the number of threads for a sequence of similar items of work, such as training steps.

    It times a few items with each candidate and keeps the fastest number. It compares the neighbouring candidates again
    when items slow down, and at least once a minute, unless this would cost more than 5% of the time.

    Args:
        candidates: numbers to choose from, in descending order. A single candidate is used without timing.
        record: called with the schedule whenever it changes.
        schedule: schedule of an interrupted computation, to repeat.
        until: position at which that computation was interrupted; no comparison starts before.
        current: current number of threads; None: unknown.
        set_threads: function that sets the number of threads.
        clock: function that returns the time in seconds.
    """

    def __init__(
        self,
        candidates: Sequence[int],
        record: Callable[[Schedule], None] | None = None,
        schedule: Schedule | None = None,
        until: int = 0,
        *,
        current: int | None = None,
        set_threads: Callable[[int], None] = torch.set_num_threads,
        clock: Callable[[], float] = time.perf_counter,
    ):
        self.candidates, self.record, self.until = list(candidates), record, until
        self.set_threads, self.clock = set_threads, clock
        self.schedule: Schedule = [(start, threads) for start, threads in schedule or []]
        self.chosen, self.used = self.candidates[0], current
        # candidates left to time in the running comparison, at first a middle one, which is never very slow
        middle = next((number for number in self.candidates if number <= self.candidates[0] / 2), self.candidates[0])
        self._queue = [middle, *(number for number in self.candidates if number != middle)]
        self._results: dict[int, float] = {}  # seconds per unit by number of threads, in the running comparison
        self._trial: list[float] = []  # seconds per unit of each item of the running trial
        self._trial_seconds = 0.0
        self._warmed: set[int] = set()  # numbers used so far; the first item with a number is slower
        self._recent: deque[float] = deque(maxlen=WINDOW_ITEMS)  # seconds per unit since the last comparison
        self._baseline: float | None = None  # seconds per unit, from the last comparison
        self._cost = 0.0  # seconds that the last comparison took in excess of the best number
        self._compared_at = 0.0

    @contextmanager
    def timing(self, position: int = 0) -> Iterator[Item]:
        """Set the number of threads for the item of work in the block, and time the item.

        Args:
            position: position of the item, for the schedule.

        Yields:
            The item, whose `units` may be set.
        """
        item = Item()
        self._use(self._plan(position), position)
        began = self.clock()
        yield item
        if len(self.candidates) > 1 and position >= self.until:
            self._observe(self.clock() - began, item.units)

    def iterate(self, batches: Iterable[Batch], size: Callable[[Batch], int]) -> Iterator[Batch]:
        """Yield batches, and time each together with what the caller does with it.

        Args:
            batches: batches of work.
            size: function that returns the size of a batch, to which its time is proportional.
        """
        iterator = iter(batches)
        while True:
            with self.timing() as item:
                try:
                    batch = next(iterator)
                except StopIteration:
                    return
                item.units = max(1, size(batch))
                yield batch

    def rewind(self, position: int) -> None:
        """Return to an earlier position, without repeating the schedule after it.

        Args:
            position: position of the next item.
        """
        self.until = min(self.until, position)

    def _plan(self, position: int) -> int:
        """Return the number of threads for the item at a position."""
        if len(self.candidates) > 1 and position < self.until:
            repeated = [threads for start, threads in self.schedule if start <= position]
            self.chosen = min(repeated[-1], self.candidates[0]) if repeated else self.chosen
            return self.chosen
        return self._queue[0] if self._queue and len(self.candidates) > 1 else self.chosen

    def _use(self, threads: int, position: int) -> None:
        """Set the number of threads, and record it if the schedule changes."""
        if threads != self.used:
            self.set_threads(threads)
        self.used = threads
        if self.record is None or position < self.until:
            return
        length = len(self.schedule)
        while self.schedule and self.schedule[-1][0] > position:
            self.schedule.pop()
        if not self.schedule or self.schedule[-1][1] != threads:
            self.schedule.append((position, threads))
        elif len(self.schedule) == length:
            return
        self.record(self.schedule)

    def _observe(self, seconds: float, units: int) -> None:
        """Process the time of an item."""
        assert self.used is not None
        per_unit = seconds / units
        if self._queue:
            self._add_to_trial(per_unit, seconds)
            return
        self._recent.append(per_unit)
        latest = list(self._recent)[-RECENT_ITEMS:]
        is_slower = (
            self._baseline is not None
            and len(latest) == RECENT_ITEMS
            and median(latest) > SLOWDOWN_RATIO * self._baseline
        )
        rest = PAUSE_RATIO * self._cost
        if self.clock() - self._compared_at >= (rest if is_slower else max(RETRY_SECONDS, rest)):
            self._start_comparison(median(latest if is_slower else self._recent))

    def _start_comparison(self, per_unit: float) -> None:
        """Start to compare the chosen number with its neighbours.

        Args:
            per_unit: seconds per unit with the chosen number.
        """
        place = self.candidates.index(self.chosen) if self.chosen in self.candidates else 0
        neighbours = self.candidates[max(0, place - 1) : place + 2]
        self._queue = [threads for threads in neighbours if threads != self.chosen]
        self._results, self._cost = {self.chosen: per_unit}, 0.0

    def _add_to_trial(self, per_unit: float, seconds: float) -> None:
        """Add an item to the running trial, and end the trial when it is complete."""
        threads, best = self._queue[0], min(self._results.values(), default=None)
        if best is not None and per_unit > best:
            self._cost += seconds * (1 - best / per_unit)
        if threads not in self._warmed:
            self._warmed.add(threads)
            if best is None or per_unit <= ABORT_RATIO_FIRST_ITEM * best:
                return
        self._trial.append(per_unit)
        self._trial_seconds += seconds
        least = min(self._trial)
        is_too_slow = (
            best is not None and least > (ABORT_RATIO_ONE_ITEM if len(self._trial) == 1 else ABORT_RATIO) * best
        )
        is_short = len(self._trial) < TRIAL_ITEMS or self._trial_seconds < MIN_TRIAL_SECONDS
        if is_short and self._trial_seconds < TRIAL_SECONDS and not is_too_slow:
            return
        self._results[threads] = median(self._trial)
        self._trial, self._trial_seconds = [], 0.0
        self._queue.pop(0)
        fewest = min(self._results)
        if self._results[fewest] > SLOWDOWN_RATIO * min(self._results.values()):
            self._queue = [number for number in self._queue if number > fewest]  # fewer would be slower still
        if not self._queue:
            self._choose()

    def _choose(self) -> None:
        """Choose the fastest number of the comparison."""
        before, times = self.chosen, self._results
        fastest = min(times, key=lambda threads: times[threads])
        if before not in times or times[fastest] < SWITCH_RATIO * times[before]:
            self.chosen = fastest
        if self._baseline is None or self.chosen != before:
            listed = ", ".join(f"{times[threads]:.3g} s with {threads}" for threads in sorted(times))
            logger.info("Computing with %d of %d threads (%s).", self.chosen, self.candidates[0], listed)
        self._baseline, self._compared_at = times[self.chosen], self.clock()
        self._recent.clear()


def make_chooser(
    threads: int | None,
    record: Callable[[Schedule], None] | None = None,
    schedule: Schedule | None = None,
    until: int = 0,
    *,
    fixed: bool = False,
) -> ThreadChooser:
    """Create the chooser for a computation.

    The number is fixed by `threads`, by the environment variable ``OMP_NUM_THREADS``, or by `fixed`.

    Args:
        threads: number of threads; None: choose.
        record: called with the schedule whenever it changes.
        schedule: schedule of an interrupted computation, to repeat.
        until: position at which that computation was interrupted.
        fixed: keep torch's number of threads, on a GPU or with several processes.
    """
    most = torch.get_num_threads()
    if threads is not None:
        candidates = [threads]
    else:
        candidates = [most] if fixed or is_fixed_by_environment() else list_candidates(most)
    return ThreadChooser(candidates, record, schedule, until if len(candidates) > 1 else 0, current=most)


def is_fixed_by_environment() -> bool:
    """Return whether ``OMP_NUM_THREADS`` sets a number; OpenMP ignores 0 and other text."""
    number = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    return number.isdecimal() and int(number) > 0


def describe_threads(threads: int | None) -> str:
    """Describe the number of threads: ``1 thread``, ``up to 8 threads``.

    Args:
        threads: number of threads; None: the choice of `make_chooser`.
    """
    number = torch.get_num_threads() if threads is None else threads
    chosen = threads is None and number > 1 and not is_fixed_by_environment()
    return f"{'up to ' if chosen else ''}{number} thread{'' if number == 1 else 's'}"


@contextmanager
def threads_unchanged() -> Iterator[None]:
    """Restore the number of threads after the block."""
    before = torch.get_num_threads()
    try:
        yield
    finally:
        if torch.get_num_threads() != before:
            torch.set_num_threads(before)


_chooser: ContextVar[ThreadChooser | None] = ContextVar("chooser of the running command", default=None)


@contextmanager
def choosing_threads(threads: int | None, fixed: bool = False) -> Iterator[None]:
    """Choose the number of threads for the batches of `time_batches` in the block, and restore it afterwards.

    Args:
        threads: number of threads; None: choose.
        fixed: keep torch's number of threads, on a GPU or with several processes.
    """
    with threads_unchanged():
        if threads is not None:
            torch.set_num_threads(threads)
        token = _chooser.set(make_chooser(threads, fixed=fixed))
        try:
            yield
        finally:
            _chooser.reset(token)


def time_batches(batches: Iterable[Batch], size: Callable[[Batch], int] = len) -> Iterator[Batch]:
    """Yield batches; inside `choosing_threads`, set the number of threads and time each batch.

    Args:
        batches: batches of work.
        size: function that returns the size of a batch, to which its time is proportional.
    """
    chooser = _chooser.get()
    return iter(batches) if chooser is None else chooser.iterate(batches, size)

"""The number of threads: chosen by timing, repeated by a resumed run, and restored afterwards."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from conftest import TINY
from running import last, same

import stackflower as sf
from stackflower.runs.folder import Run
from stackflower.utils.threads import (
    RETRY_SECONDS,
    Schedule,
    ThreadChooser,
    choosing_threads,
    is_fixed_by_environment,
    list_candidates,
    make_chooser,
    threads_unchanged,
    time_batches,
)


class Machine:
    """A machine with a fake clock, on which an item takes a time that depends on the number of threads."""

    def __init__(self, speed: Callable[[int], float], candidates: list[int], **options: object):
        self.now, self.threads, self.speed = 0.0, 0, speed
        self.used: list[int] = []
        self.saved: Schedule = []
        options = {"record": lambda schedule: setattr(self, "saved", list(schedule)), **options}
        self.chooser = ThreadChooser(candidates, set_threads=self.set_threads, clock=lambda: self.now, **options)

    def set_threads(self, threads: int) -> None:
        self.threads = threads

    def run(self, items: int = 0, seconds: float = 0.0, first: int = 0) -> float:
        """Run items, or for some seconds, and return the items per second."""
        began, count, end = self.now, 0, self.now + seconds
        while count < items or self.now < end:
            with self.chooser.timing(first + count):
                self.used.append(self.threads)
                self.now += self.speed(self.threads) * (2.0 if count % 16 == 5 else 1.0)  # a lazy penalty
            count += 1
        return count / (self.now - began)


ALONE, BUSY = {1: 0.165, 2: 0.123}, {1: 0.160, 2: 1.14}


def test_candidates_are_all_threads_one_less_and_halves() -> None:
    assert [list_candidates(most) for most in (1, 2, 3, 8)] == [[1], [2, 1], [3, 2, 1], [8, 7, 4, 2, 1]]


@pytest.mark.parametrize(("times", "best"), [(ALONE, 2), (BUSY, 1)], ids=["alone", "busy"])
def test_the_fastest_number_is_kept_at_nine_tenths_of_its_speed(times: dict[int, float], best: int) -> None:
    machine, fixed = Machine(times.__getitem__, [2, 1]), Machine(times.__getitem__, [best])
    assert machine.run(seconds=600) > 0.9 * fixed.run(seconds=600)
    assert machine.used.count(best) > 0.9 * len(machine.used)


def test_a_slowdown_is_noticed_after_a_few_items_and_its_end_within_a_minute() -> None:
    times = dict(ALONE)
    machine = Machine(lambda threads: times[threads], [2, 1])
    machine.run(seconds=100)
    assert machine.chooser.chosen == 2
    times.update(BUSY)
    machine.run(items=12)
    assert machine.chooser.chosen == 1
    times.update(ALONE)
    machine.run(seconds=RETRY_SECONDS + 5)
    assert machine.chooser.chosen == 2


def test_comparisons_of_slow_items_take_a_small_share_of_the_time() -> None:
    machine = Machine(lambda threads: 120.0 / threads, [16, 15, 8, 4, 2, 1])
    assert machine.run(seconds=36_000) > 0.9 * 16 / 120
    assert not {1, 2, 4} & set(machine.used), "a number far below the best is not tried"


def test_a_number_that_is_far_too_high_costs_a_single_item_per_comparison() -> None:
    machine = Machine({1: 0.16, 2: 5.0}.__getitem__, [2, 1])
    machine.run(seconds=50)
    assert machine.used.count(2) == 1


def test_a_single_candidate_is_never_timed() -> None:
    machine = Machine(lambda threads: 1.0, [3])
    machine.run(items=200)
    assert set(machine.used) == {3} and machine.saved == [(0, 3)]


def test_an_interrupted_schedule_is_repeated() -> None:
    first = Machine(ALONE.__getitem__, [2, 1])
    first.run(items=1000)
    assert len(first.saved) > 3 and first.saved == [
        (at, threads) for at, threads in enumerate(first.used) if at == 0 or first.used[at - 1] != threads
    ]
    again = Machine(BUSY.__getitem__, [2, 1], schedule=first.saved, until=1000)
    again.run(items=700, first=300)
    assert again.used == first.used[300:], "whatever the speed now"
    again.run(items=50, first=1000)
    assert again.saved[: len(first.saved)] == first.saved and again.chooser.chosen == 1


def test_a_schedule_ends_where_a_computation_returned_to() -> None:
    machine = Machine(ALONE.__getitem__, [2, 1], schedule=[(0, 2), (100, 1), (200, 2)], until=300)
    machine.run(items=10, first=100)
    machine.chooser.rewind(50)
    machine.run(items=1, first=50)
    assert machine.saved == [(0, 2), (50, 1)], "not what was used after 100"


def test_the_number_is_fixed_by_the_parameter_or_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert make_chooser(3).candidates == [3]
    assert make_chooser(None).candidates == [torch.get_num_threads()]
    for ignored in ("0", "many", ""):
        monkeypatch.setenv("OMP_NUM_THREADS", ignored)
        assert not is_fixed_by_environment()
    with threads_unchanged():
        torch.set_num_threads(4)
        assert make_chooser(None).candidates == [4, 3, 2, 1]
        assert make_chooser(None, fixed=True).candidates == [4]


def test_batches_are_timed_inside_a_command_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS")
    before, batches = torch.get_num_threads(), [torch.zeros(4), torch.zeros(2)]
    assert [len(batch) for batch in time_batches(batches)] == [4, 2]
    with choosing_threads(3):
        assert torch.get_num_threads() == 3 and [len(batch) for batch in time_batches(batches)] == [4, 2]
    assert torch.get_num_threads() == before


@pytest.fixture
def several(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Two threads to choose from, and quick comparisons."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr("stackflower.utils.threads.MIN_TRIAL_SECONDS", 0)
    monkeypatch.setattr("stackflower.utils.threads.RETRY_SECONDS", 0.05)
    monkeypatch.setattr("stackflower.utils.threads.PAUSE_RATIO", 0)
    with threads_unchanged():
        torch.set_num_threads(2)
        yield


def test_a_run_interrupted_between_choices_resumes_with_the_same_weights(stackflower, tmp_path: Path, several) -> None:
    flags = ["--images", 240, *TINY, "--set", "output.checkpoint_every=120", "--set", "output.log_every=1"]
    stackflower("train", "--out", "run", *flags, "--set", "output.keep_last=10")
    record = json.loads((tmp_path / "run" / "config.json").read_text())
    assert len(record["threads"]) > 3 and torch.get_num_threads() == 2
    before = {path.name: path.read_bytes() for path in last(tmp_path / "run").iterdir()}
    for path in last(tmp_path / "run").iterdir():
        path.unlink()
    last_kept = Run(tmp_path / "run").list_checkpoint_images()[-1]
    assert last_kept == 120
    stackflower("train", "--resume", "run")
    after = {path.name: path.read_bytes() for path in last(tmp_path / "run").iterdir()}
    assert after.keys() == before.keys() and all(after[name] == before[name] for name in before)


def test_a_fixed_number_makes_the_weights_reproducible(stackflower, tmp_path: Path, several) -> None:
    flags = ["--images", 64, *TINY, "--threads", 2]
    for out in ("one", "two"):
        stackflower("train", "--out", out, *flags)
    same(tmp_path / "one", tmp_path / "two")
    config = Run(tmp_path / "one").read_record()
    assert config.config.train.threads == 2 and config.threads == [[0, 2]]
    stackflower("train", "--resume", "one", "--images", 128, "--threads", 1)
    assert Run(tmp_path / "one").read_record().threads[-1] == [64, 1], "may differ in a resumed run"
    assert torch.get_num_threads() == 2


def test_the_library_leaves_the_number_of_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, several) -> None:
    monkeypatch.chdir(tmp_path)
    settings = {"generator.channels": 4, "discriminator.channels": 4, "generator.resolution": 16, "data.count": 64}
    options = {"batch_size": 8, "mixed_precision": "no", "progress_bar": False}
    run = sf.train("quickstart", images=16, out="run", threads=1, settings=settings, **options)
    assert torch.get_num_threads() == 2 and run.read_config().train.threads == 1

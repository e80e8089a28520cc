"""A time limit sets the length of a training."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import TINY, settings
from running import last, lines, same

from stackflower.runs import checkpoint
from stackflower.runs.folder import Run
from stackflower.training.logger import RunLogger
from stackflower.training.schedules import Length, Pace
from stackflower.training.step import TrainingStep


@pytest.fixture
def steady(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock on which a step takes 20 ms and all else nothing, so that a time limit is the same on a busy machine."""
    now, plain = [time.monotonic()], TrainingStep.__call__

    def step(self: TrainingStep, images: int, step: int) -> int:
        now[0] += 0.02
        return plain(self, images, step)

    monkeypatch.setattr(TrainingStep, "__call__", step)
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(RunLogger, "clock", staticmethod(lambda: now[0]))


def test_the_time_limit_alone_sets_the_length(stackflower, steady, tmp_path: Path) -> None:
    """The run ends by itself, its learning rate at zero; what was measured is recorded."""
    many = settings(
        "output.log_every=1", "optimizer.generator.decay_from=0.5", "optimizer.discriminator.decay_from=0.5"
    )
    stackflower("train", "--out", "run", *TINY, "--time-limit", "4s", *many)
    values = json.loads((tmp_path / "run" / "config.json").read_text())
    train = values["run"]["train"]
    assert train["time_limit"] == 4.0 and train["epochs"] is None and train["images"] is None
    trained, size = checkpoint.read_state(last(tmp_path / "run")).images, train["batch_size"]
    assert abs(trained - 200 * size) <= 4 * size, "two hundred steps of 20 ms"
    assert values["length"][-1][2] <= trained, "it ended where the last estimate says"
    logged = [row for row in lines(tmp_path / "run") if "share" in row]
    shares = [row["share"] for row in logged]
    assert shares == sorted(shares) and shares[-1] == 1.0
    rates = [row["lr/generator"] for row in logged]
    assert rates[0] == max(rates) and rates[-1] < 0.05 * rates[0]


def test_a_resumed_run_repeats_the_length_that_was_measured(stackflower, steady, tmp_path: Path) -> None:
    import shutil

    quick = settings("output.checkpoint_every=160", "output.keep_every=1", "optimizer.generator.decay_from=0.2")
    stackflower("train", "--out", "run", *TINY, "--time-limit", "4s", *quick)
    shutil.copytree(tmp_path / "run", tmp_path / "again")
    for path in Run(tmp_path / "again").list_checkpoints()[1:]:
        shutil.rmtree(path)
    stackflower("train", "--resume", "again")
    same(tmp_path / "run", tmp_path / "again")
    output = stackflower("train", "--resume", "run", "--set", "train.time_limit=20", code=2).output
    assert "train.time_limit is 4.0 in the run and 20 here" in output


def test_the_share_of_a_length_is_continuous_and_ends_at_one() -> None:
    length = Length()
    assert length.get_share(500) == 0 and not length.is_done(10**9) and length.get_total(0) is None
    length.refit(100, 1_100)
    assert length.get_share(100) == 0 and length.get_share(600) == 0.5
    length.refit(600, 800)  # the machine slowed down
    assert (
        length.get_share(600) == 0.5
        and length.get_share(700) == 0.75
        and length.get_share(800) == 1
        and length.is_done(800)
    )
    assert length.get_share(350) == 0.25, "what was before stays"
    again = Length(json.loads(json.dumps(length.knots)))
    assert [again.get_share(images) for images in range(0, 900, 50)] == [length.get_share(i) for i in range(0, 900, 50)]
    length.refit(800, 700)
    assert length.is_done(800) and length.get_share(900) == 1
    fixed = Length.from_total(300)
    assert [fixed.get_share(images) for images in (0, 75, 300)] == [0, 0.25, 1] and fixed.is_done(300)


def test_the_pace_follows_the_speed_of_late(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    pace = Pace(deadline=200.0, limit=100.0, step=10, timed=8)
    assert not pace.is_due(0)
    pace.start(20)
    now[0] += 8
    assert not pace.is_due(90) and pace.is_due(100)
    assert pace.estimate(100, 0.0) == 100 + 920, "ten images a second, 92 seconds left"
    images = 100
    for _ in range(20):  # the machine slows to half
        now[0] += 2
        images += 10
        assert pace.is_due(images)
        total = pace.estimate(images, 0.3)
    assert total == pytest.approx(images + 5 * (200 - now[0]), abs=10)
    now[0] += 4
    pace.pause("checkpoint", 4.0, 0.5)  # a checkpoint at the half: another will come at the end
    assert not pace.is_due(images), "a pause is no time of training"
    now[0] += 2
    assert pace.estimate(images + 10, 0.51) == pytest.approx(images + 10 + 5 * (200 - now[0] - 4), abs=10)
    now[0] += 14
    # the median of both is expected once more, at the end: there is no time for others
    pace.pause("checkpoint", 14.0, 0.52)
    now[0] += 2
    assert not pace.can_pause()
    assert pace.estimate(images + 20, 0.52) == pytest.approx(images + 20 + 5 * (200 - now[0] - 9), abs=10)
    pace.restart()  # back to a checkpoint, with fewer images
    assert not pace.is_due(50)
    pace.start(50)
    now[0] += 10
    assert pace.is_due(130) and pace.estimate(130, 0.1) > 130


def paced(pace: Pace, length: Length, now: list[float], seconds: float) -> Iterator[tuple[int, int]]:
    """Images before and after each step of a training that a time limit ends; a step takes `seconds`."""
    images = 0
    while not length.is_done(images):
        before, images = images, images + pace.step
        now[0] += seconds
        if not pace.marks:
            pace.start(images)
        if pace.is_due(images):
            length.refit(images, pace.estimate(images, length.get_share(images)))
        yield before, images


@pytest.mark.parametrize(
    ("pause", "first", "count"), [(0.2, 0.2, 10), (1, 1, 6), (3, 3, 2), (5, 5, 2), (0.2, 20, 2), (0.2, 40, 2)]
)
def test_slow_checkpoints_keep_a_time_limit(
    monkeypatch: pytest.MonkeyPatch, pause: float, first: float, count: int
) -> None:
    """Steps of 20 ms in a limit of 60 s: it ends on time, and checkpoints take a tenth of the time at most."""
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    pace, length, pauses = Pace(60.0, 60.0, 8, 1), Length(), 0
    for before, images in paced(pace, length, now, 0.02):
        tenth = int(length.get_share(before) * 10) != int(length.get_share(images) * 10)
        if length.is_done(images) or (tenth and pace.can_pause()):
            seconds = pause if pauses else first
            now[0] += seconds
            pauses += 1
            pace.pause("checkpoint", seconds, length.get_share(images))
    assert length.get_share(before) > 0.98 and 48 <= now[0] <= 60.1 and pauses == count


def test_cheap_grids_do_not_hide_slow_checkpoints(monkeypatch: pytest.MonkeyPatch) -> None:
    """With grids at every tenth and a slow checkpoint every 600 images, the share still grows to its end."""
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    pace, length = Pace(40.0, 40.0, 8, 1, sparing=False), Length()
    for before, images in paced(pace, length, now, 0.1):
        share = length.get_share(images)
        if int(length.get_share(before) * 10) != int(share * 10):
            now[0] += 0.1
            pace.pause("grid", 0.1, share)
        if before // 600 != images // 600 or length.is_done(images):
            now[0] += 5
            pace.pause("checkpoint", 5.0, share)
    assert length.get_share(before) > 0.9 and 38 < now[0] < 45  # by one checkpoint at most, which was asked for

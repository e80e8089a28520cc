"""Training as a whole: it runs, resumes bit for bit, survives what befalls it, and is the same on two processes."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from conftest import TINY, TINY_NETWORKS, settings
from safetensors.torch import load_file

from stackflower import registry
from stackflower.errors import TrainingFailed
from stackflower.objectives.hinge import Hinge
from stackflower.runs import checkpoint
from stackflower.runs.folder import Run
from stackflower.stages.base import Refiner
from stackflower.training.logger import RunLogger
from stackflower.training.schedules import Length, Pace
from stackflower.training.step import TrainingStep
from stackflower.training.stopping import naming_lost_processes


def last(run: Path) -> Path:
    return Run(run).list_checkpoints()[-1]


def same(one: Path, other: Path) -> None:
    """Two runs ended with the same numbers, tensor for tensor."""
    assert last(one).name == last(other).name
    names = {path.stem for path in last(one).glob("*.safetensors")}
    assert names == {path.stem for path in last(other).glob("*.safetensors")} and len(names) >= 6
    for name in names:
        mine, theirs = load_file(last(one) / f"{name}.safetensors"), load_file(last(other) / f"{name}.safetensors")
        assert mine.keys() == theirs.keys() and mine, name
        for key in mine:
            assert torch.equal(mine[key], theirs[key]), f"{name}: {key}"
    for file in ("generator.safetensors", "text/encoder.safetensors"):
        assert (one / file).exists() == (other / file).exists()
        if (one / file).exists():
            one_model, other_model = load_file(one / file), load_file(other / file)
            assert all(torch.equal(one_model[key], other_model[key]) for key in one_model)
    states = [json.loads((last(run) / "state.json").read_text()) for run in (one, other)]
    assert states[0] == states[1]


def lines(run: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_a_run_leaves_what_it_promises(trained: Path) -> None:
    assert {path.name for path in trained.iterdir()} >= {
        "config.json",
        "metrics.jsonl",
        "samples",
        "checkpoints",
        "generator.safetensors",
    }
    assert [path.name for path in Run(trained).list_checkpoints()][-1] == "images-000000096"
    assert (trained / "samples" / "images-000000096.png").exists()
    (entry,) = lines(trained)[-1:]
    assert entry["images"] == 96 and {"discriminator-16/real", "generator/kl", "images_per_second"} <= entry.keys()
    assert not [path for path in trained.rglob(".*") if path.name != ".lock"]


@pytest.mark.parametrize(
    ("kind", "name"), [(kind, name) for kind in ("discriminator", "generator") for name in registry.list_parts(kind)]
)
def test_any_part_is_swapped_in_by_its_flag_alone(
    stackflower, tmp_path: Path, projected_flags: list[str], kind: str, name: str
) -> None:
    """With nothing else given it trains, is saved, goes on, and is drawn with."""
    over: list[object] = []
    if issubclass(registry.get(kind, name), Refiner):
        stackflower("train", "--out", "below", "--images", 16, *TINY)
        over = ["--stage", 2, "--below", "below", *settings("generator.resolution=32")]
    tree = settings("generator.resolution=64", "generator.scales=3") if name == "tree" else []
    features = projected_flags if name == "projected" else []
    rest = [*over, f"--{kind}", name, *(pair for pair in TINY), *over, *tree, *features]
    stackflower("train", "--out", "run", "--images", 16, *rest)
    stackflower("train", "--resume", "run", "--images", 24)
    assert (tmp_path / "run" / "samples" / "images-000000024.png").exists()
    stackflower("sample", "run", "a red flower", "--out", "red.png")
    stackflower("train", *rest, "--images", 16, "--dry-run")


RELATIVISTIC_ADA = [
    *("--discriminator", "r3gan", "--penalty", "r2=1", "--augmentation", "ada"),
    *settings("augmentation.strength=0.5"),
]


def with_features(arguments: list[str], projected_flags: list[str]) -> list[str]:
    """The arguments with the flags of the tiny projected discriminator in the place of its name."""
    return [one for given in arguments for one in (projected_flags if given == "PROJECTED" else [given])]


@pytest.mark.parametrize(
    "extra",
    [
        [],
        ["--penalty", "r1=1", "--set", "penalties.r1.every=3"],
        ["--penalty", "mode-seeking", "--set", "train.latents_per_caption=2", "--gradient-accumulation", "2"],
        [
            "--set",
            "train.critic_steps=2",
            "--objective",
            "hinge",
            "--conditioning",
            "projection",
            "--set",
            "generator.noise=uniform",
        ],
        settings(
            "optimizer.generator.name=rmsprop", "optimizer.discriminator.name=sgd", "optimizer.discriminator.beta1=0.9"
        ),
        [
            *("--discriminator", "began", "--penalty", "out-of-range", "--conditioning", "projection"),
            *settings(
                "conditioning.noise=0.1", "optimizer.generator.plateau=0.4", "optimizer.discriminator.plateau=0.4"
            ),
        ],
        ["--text", "rnn", "--set", "train.captions_averaged=2"],
        ["--text", "rnn", "--gradient-accumulation", "2", *settings("optimizer.text.name=rmsprop")],
        ["--generator", "tree", *settings("generator.scales=2", "generator.resolution=32")],
        [
            "--generator",
            "residual",
            *settings("generator.norm=virtual", "generator.dropout=0.5", "train.flip_vertical=true"),
        ],
        ["PROJECTED", "--augmentation", "diffaugment", "--penalty", "r1=0.1"],
        [
            "PROJECTED",
            "--penalty",
            "mode-seeking",
            *("--penalty", "feature-matching", "--objective", "hinge"),
            *settings("penalties.mode-seeking.space=features", "train.latents_per_caption=2", "train.contrasted=8"),
        ],
        RELATIVISTIC_ADA,
        ["PROJECTED", "--generator", "tree", *settings("generator.scales=2", "generator.resolution=32")],
    ],
    ids=[
        *("plain", "lazy-r1", "mode-seeking-accumulated", "critic-steps", "rmsprop-and-sgd"),
        *("began", "joint-text", "joint-text-accumulated", "tree", "virtual-batch-norm"),
        *("projected", "projected-features", "relativistic-ada", "projected-tree"),
    ],
)
def test_resuming_is_exact(stackflower, tmp_path: Path, projected_flags: list[str], extra: list[str]) -> None:
    tiny = with_features([*TINY, *extra], projected_flags)
    stackflower("train", "--out", "whole", "--images", 96, *tiny, "--set", "output.checkpoint_every=32")
    shutil.copytree("whole", "parts")
    run = Run("parts")
    while len(run.list_checkpoints()) > 1:  # back to an earlier one
        shutil.rmtree(run.list_checkpoints()[-1])
    (tmp_path / "parts" / "generator.safetensors").unlink()
    stackflower("train", "--resume", "parts")
    same(tmp_path / "whole", tmp_path / "parts")
    assert [line["images"] for line in lines(tmp_path / "parts")] == [
        line["images"] for line in lines(tmp_path / "whole")
    ]


def test_a_longer_resume_is_remembered_and_the_model_is_whole(stackflower, tmp_path: Path, trained: Path) -> None:

    shutil.copytree(trained, tmp_path / "run")
    stackflower("train", "--resume", "run", "--images", 128)
    assert json.loads((tmp_path / "run" / "config.json").read_text())["run"]["train"]["images"] == 128
    (tmp_path / "run" / "generator.safetensors").unlink()
    stackflower("train", "--resume", "run")
    model, average = (
        load_file(p)
        for p in (tmp_path / "run" / "generator.safetensors", last(tmp_path / "run") / "generator-ema.safetensors")
    )
    assert all(torch.equal(model[key], average[key]) for key in average)


def test_a_run_does_not_go_on_with_other_data(stackflower, tmp_path: Path) -> None:
    flowers = ["data", "make", "synthetic-flowers", "--count", 16, "--validation", 8, "--test", 8, "--resolution", 64]
    stackflower(*flowers, "--out", "flowers")
    stackflower("train", "--data", "flowers", "--out", "run", "--images", 16, *TINY_NETWORKS)
    metadata = tmp_path / "flowers" / "train" / "metadata.jsonl"
    metadata.write_text(metadata.read_text().replace("flower", "bloom"))
    assert "the images or captions changed" in stackflower("train", "--resume", "run", "--images", 32, code=2).output


class Counting(Hinge):
    """An objective with state: how many steps it has seen, and the last real loss."""

    def __init__(self, *, generator_contrast: float = 1.0) -> None:
        super().__init__(generator_contrast=generator_contrast)
        self.register_buffer("steps", torch.zeros(()))

    def after_step(self, measured):  # type: ignore[no-untyped-def]
        self.steps += 1
        assert {"real", "fake", "negative", "adversarial"} <= measured.keys()
        return {"steps": self.steps.clone()}


def test_an_objectives_state_moves_and_survives_a_resume(
    stackflower, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = registry.get
    monkeypatch.setattr(
        registry, "get", lambda kind, name: Counting if (kind, name) == ("objective", "hinge") else plain(kind, name)
    )
    stackflower("train", "--out", "run", "--images", 96, *TINY)
    stackflower("train", "--resume", "run", "--images", 128)
    state = load_file(last(tmp_path / "run") / "discriminator-16.safetensors")
    assert state["objective.steps"] == 128 / 8
    assert lines(tmp_path / "run")[-1]["discriminator-16/steps"] > 0


def start(tmp_path: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "stackflower", "train", *arguments],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(condition, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


SLOW = [
    *TINY,
    "--images",
    "1600",
    "--set",
    "output.checkpoint_every=16",
    "--set",
    "output.log_every=1",
    "--set",
    "output.sample_every=100000",
]


def test_killed_and_resumed_equals_uninterrupted(tmp_path: Path, stackflower) -> None:
    stackflower("train", "--out", "whole", *SLOW)
    process = start(tmp_path, "--out", "run", *SLOW)
    for _ in range(2):
        wait_for(lambda: bool(Run(tmp_path / "run").list_checkpoints()))
        time.sleep(random.uniform(0.05, 0.5))
        process.send_signal(signal.SIGKILL)
        process.wait()
        process = start(tmp_path, "--resume", "run")
        time.sleep(2)
    process.communicate(timeout=240)
    assert process.returncode == 0
    same(tmp_path / "whole", tmp_path / "run")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_asked_to_stop_it_saves_and_prints_the_line_that_resumes(tmp_path: Path, number: int) -> None:
    process = start(tmp_path, "--out", "run", *SLOW, "--images", "400000", "--set", "output.checkpoint_every=1000000")
    wait_for(lambda: (tmp_path / "run" / "metrics.jsonl").exists())
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number, err
    assert out.strip() == "stackflower train --resume run" and "saved" in err
    state = checkpoint.read_state(last(tmp_path / "run"))
    assert state.images == state.step * 8 > 0


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
    assert length.share(500) == 0 and not length.done(10**9) and length.total(0) is None
    length.refit(100, 1_100)
    assert length.share(100) == 0 and length.share(600) == 0.5
    length.refit(600, 800)  # the machine slowed down
    assert length.share(600) == 0.5 and length.share(700) == 0.75 and length.share(800) == 1 and length.done(800)
    assert length.share(350) == 0.25, "what was before stays"
    again = Length(json.loads(json.dumps(length.knots)))
    assert [again.share(images) for images in range(0, 900, 50)] == [length.share(i) for i in range(0, 900, 50)]
    length.refit(800, 700)
    assert length.done(800) and length.share(900) == 1
    fixed = Length.fixed(300)
    assert [fixed.share(images) for images in (0, 75, 300)] == [0, 0.25, 1] and fixed.done(300)


def test_the_pace_follows_the_speed_of_late(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    pace = Pace(deadline=200.0, limit=100.0, step=10, timed=8)
    assert not pace.due(0)
    pace.start(20)
    now[0] += 8
    assert not pace.due(90) and pace.due(100)
    assert pace.estimate(100, 0.0) == 100 + 920, "ten images a second, 92 seconds left"
    images = 100
    for _ in range(20):  # the machine slows to half
        now[0] += 2
        images += 10
        assert pace.due(images)
        total = pace.estimate(images, 0.3)
    assert total == pytest.approx(images + 5 * (200 - now[0]), abs=10)
    now[0] += 4
    pace.pause("checkpoint", 4.0, 0.5)  # a checkpoint at the half: another will come at the end
    assert not pace.due(images), "a pause is no time of training"
    now[0] += 2
    assert pace.estimate(images + 10, 0.51) == pytest.approx(images + 10 + 5 * (200 - now[0] - 4), abs=10)
    now[0] += 14
    # the median of both is expected once more, at the end: there is no time for others
    pace.pause("checkpoint", 14.0, 0.52)
    now[0] += 2
    assert not pace.affords()
    assert pace.estimate(images + 20, 0.52) == pytest.approx(images + 20 + 5 * (200 - now[0] - 9), abs=10)
    pace.restart()  # back to a checkpoint, with fewer images
    assert not pace.due(50)
    pace.start(50)
    now[0] += 10
    assert pace.due(130) and pace.estimate(130, 0.1) > 130


def paced(pace: Pace, length: Length, now: list[float], seconds: float) -> Iterator[tuple[int, int]]:
    """Images before and after each step of a training that a time limit ends, on a clock on which a step takes `seconds`."""
    images = 0
    while not length.done(images):
        before, images = images, images + pace.step
        now[0] += seconds
        if not pace.marks:
            pace.start(images)
        if pace.due(images):
            length.refit(images, pace.estimate(images, length.share(images)))
        yield before, images


@pytest.mark.parametrize(
    ("pause", "first", "count"), [(0.2, 0.2, 10), (1, 1, 6), (3, 3, 2), (5, 5, 2), (0.2, 20, 2), (0.2, 40, 2)]
)
def test_slow_checkpoints_keep_a_time_limit(
    monkeypatch: pytest.MonkeyPatch, pause: float, first: float, count: int
) -> None:
    """Steps of 20 ms in a limit of 60 s: it ends on time, its share at one, with as many checkpoints as a tenth of the time holds."""
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    pace, length, pauses = Pace(60.0, 60.0, 8, 1), Length(), 0
    for before, images in paced(pace, length, now, 0.02):
        tenth = int(length.share(before) * 10) != int(length.share(images) * 10)
        if length.done(images) or (tenth and pace.affords()):
            seconds = pause if pauses else first
            now[0] += seconds
            pauses += 1
            pace.pause("checkpoint", seconds, length.share(images))
    assert length.share(before) > 0.98 and 48 <= now[0] <= 60.1 and pauses == count


def test_cheap_grids_do_not_hide_slow_checkpoints(monkeypatch: pytest.MonkeyPatch) -> None:
    """Grids at every tenth and a slow checkpoint every 600 images, as settings may ask for: the share grows to its end."""
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    pace, length = Pace(40.0, 40.0, 8, 1, sparing=False), Length()
    for before, images in paced(pace, length, now, 0.1):
        share = length.share(images)
        if int(length.share(before) * 10) != int(share * 10):
            now[0] += 0.1
            pace.pause("grid", 0.1, share)
        if before // 600 != images // 600 or length.done(images):
            now[0] += 5
            pace.pause("checkpoint", 5.0, share)
    assert length.share(before) > 0.9 and 38 < now[0] < 45  # by one checkpoint at most, which was asked for


@pytest.mark.parametrize(
    ("raised", "sentence"),
    [
        (
            "DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that dataloader's workers are out of",
            "A worker process that decodes the stream was killed by signal: Bus error;",
        ),
        ("DataLoader worker (pid(s) 7, 8) exited unexpectedly", "that decodes the stream exited unexpectedly;"),
        (
            "[gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:1",
            "Another process of this training",
        ),
    ],
)
def test_a_process_that_ended_is_named(raised: str, sentence: str) -> None:
    with pytest.raises(TrainingFailed, match=re.escape(sentence)) as caught, naming_lost_processes(Path("my run")):
        raise RuntimeError(raised)
    assert "resume with `resume=my run`" in str(caught.value)
    with pytest.raises(RuntimeError, match="a shape"), naming_lost_processes(Path("run")):
        raise RuntimeError("a shape that does not fit")


def poison(monkeypatch: pytest.MonkeyPatch, times: int) -> list[int]:
    """Spoil the generator's weights at the sixth step, `times` times."""
    left, plain = [times], TrainingStep.__call__

    def spoiled(self: TrainingStep, images: int, step: int) -> int:
        seen = plain(self, images, step)
        if step == 5 and left[0]:
            left[0] -= 1
            with torch.no_grad():
                self.networks.stage.generator.to_image.weight.fill_(float("nan"))
        return seen

    monkeypatch.setattr(TrainingStep, "__call__", spoiled)
    return left


def test_a_loss_that_turns_infinite_goes_back_with_half_the_rate(
    stackflower, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    poison(monkeypatch, 2)
    result = stackflower(
        "train",
        "--out",
        "run",
        "--images",
        96,
        *TINY,
        "--set",
        "output.checkpoint_every=24",
        "--set",
        "output.log_every=4",
    )
    events = [line for line in lines(tmp_path / "run") if line.get("event") == "rollback"]
    assert [event["rate_scale"] for event in events] == [0.5, 0.25]
    assert "not finite" in result.output and events[0]["terms"]
    assert "generator's weights" in events[0]["terms"], "found before the checkpoint was written"
    assert lines(tmp_path / "run")[-1]["lr/generator"] <= 0.25 * 5e-4
    weights = load_file(tmp_path / "run" / "generator.safetensors")
    assert all(torch.isfinite(value).all() for value in weights.values())


def test_after_three_times_it_stops_and_names_the_term(
    stackflower, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    poison(monkeypatch, 10)
    seldom = settings("output.log_every=4", "output.checkpoint_every=100000")
    result = stackflower("train", "--out", "run", "--images", 96, *TINY, *seldom, code=1)
    assert "generator/adversarial-16" in result.output and "--penalty r1" in result.output
    assert all(torch.isfinite(v).all() for v in load_file(last(tmp_path / "run") / "generator.safetensors").values())


def test_a_full_disk_leaves_the_last_checkpoint(stackflower, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, calls = checkpoint.save_file, [0]

    def full(tensors: dict[str, torch.Tensor], path: Path, *rest: object) -> None:
        calls[0] += 1
        if calls[0] > 20:
            Path(path).write_bytes(b"half")
            raise OSError(28, "No space left on device")
        plain(tensors, path, *rest)

    monkeypatch.setattr(checkpoint, "save_file", full)
    result = stackflower("train", "--out", "run", "--images", 96, *TINY, "--set", "output.checkpoint_every=16", code=1)
    assert "No space left on device" in result.output and "--resume run" in result.output
    again = stackflower("train", "--resume", "run", code=1)
    assert "No space left on device" in again.output and "is untouched" in again.output
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    stackflower("train", "--resume", "run")
    stackflower("train", "--out", "whole", "--images", 96, *TINY, "--set", "output.checkpoint_every=16")
    same(tmp_path / "whole", tmp_path / "run")


def test_old_checkpoints_go_and_every_nth_stays(stackflower, tmp_path: Path) -> None:
    stackflower(
        "train",
        "--out",
        "run",
        "--images",
        96,
        *TINY,
        "--set",
        "output.checkpoint_every=8",
        "--set",
        "output.keep_every=4",
    )
    kept = [int(path.name[7:]) for path in Run(tmp_path / "run").list_checkpoints()]
    assert kept == [24, 56, 88, 96]  # numbers 4, 8, 12 and the last two


def test_a_run_in_use_is_refused(stackflower, tmp_path: Path) -> None:
    process = start(tmp_path, "--out", "run", *SLOW, "--images", "400000")
    try:
        wait_for(lambda: (tmp_path / "run" / "config.json").exists())
        assert "Another process is writing to run" in stackflower("train", "--resume", "run", code=2).output
    finally:
        process.kill()
        process.communicate()


def launch(tmp_path: Path, *program: str) -> subprocess.CompletedProcess[str]:
    """A Python program, or a module after -m, on one thread."""
    return subprocess.run(
        [sys.executable, *program],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=280,
    )


def two(tmp_path: Path, *program: str) -> subprocess.CompletedProcess[str]:
    """The same on two processes."""
    return launch(tmp_path, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *program)


def gloo(tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command line on two processes."""
    return two(tmp_path, "-m", "stackflower", *arguments)


@pytest.mark.skipif(not (shutil.which("g++") or shutil.which("clang++")), reason="no C++ compiler")
@pytest.mark.parametrize("discriminator", ["matching", "projected"])
def test_compiled_networks_train_as_eager_ones(
    stackflower, tmp_path: Path, projected_flags: list[str], discriminator: str
) -> None:
    arguments = [*TINY, "--images", 16, "--penalty", "r1=1", *(projected_flags if discriminator == "projected" else [])]
    stackflower("train", "--out", "eager", *arguments)
    stackflower("train", "--out", "compiled", "--compile", *arguments)
    for name in ("optimizer-generator", "optimizer-discriminator"):
        # after one step, Adam's first moment is the gradient; the weights move by its sign, which turns with the last bit near zero
        first = (
            tmp_path / run / "checkpoints" / "images-000000008" / f"{name}.safetensors" for run in ("eager", "compiled")
        )
        one, two = map(load_file, first)
        gradients = [key for key in one if key.endswith("exp_avg")]
        scale = max(float(one[key].abs().max()) for key in gradients)
        assert scale > 0 and one.keys() == two.keys()
        assert all((one[key] - two[key]).abs().max() < 1e-4 * scale for key in gradients)


@pytest.mark.parametrize(
    "norm",
    [
        [],
        settings("generator.norm=none", "discriminator.norm=none"),
        ["--discriminator", "began"],
        ["--text", "rnn", *settings("generator.norm=virtual")],
        [
            *("PROJECTED", "--augmentation", "diffaugment", "--penalty", "feature-matching=1"),
            *settings("train.contrasted=8"),
        ],
        RELATIVISTIC_ADA,
    ],
    ids=["synchronised", "off", "began", "joint-text", "projected", "relativistic-ada"],
)
def test_two_processes_train_as_one(tmp_path: Path, stackflower, projected_flags: list[str], norm: list[str]) -> None:
    """One step with SGD-like transparency: Adam's first moment after one step is (1 − β₁) times the gradient."""
    arguments = with_features(
        [*TINY, *norm, "--images", "8"], projected_flags
    )  # with quickstart's contrast, deviation and penalties
    stackflower("train", "--out", "one", *arguments)
    result = gloo(tmp_path, "train", "--out", "two", *arguments)
    assert result.returncode == 0, result.stderr[-3000:]
    assert json.loads((last(tmp_path / "two") / "state.json").read_text())["processes"] == 2
    tolerance = 1e-3 if "began" in norm else 1e-5  # the slope of |x| turns over with the last bit of x
    optimizers = [path.stem for path in last(tmp_path / "one").glob("optimizer-*.safetensors")]
    assert len(optimizers) == (3 if "rnn" in norm else 2)
    for name in optimizers:
        one, two = (load_file(last(tmp_path / run) / f"{name}.safetensors") for run in ("one", "two"))
        gradients = [key for key in one if key.endswith("exp_avg")]
        scale = max(float(one[key].abs().max()) for key in gradients)
        assert gradients and scale > 0
        for key in gradients:
            assert (one[key] - two[key]).abs().max() <= tolerance * max(scale, 1e-3), key
    for key, value in (one_side := load_file(last(tmp_path / "one") / "discriminator-16.safetensors")).items():
        if key.startswith("objective."):  # k, and what is known of the epoch's errors
            other = load_file(last(tmp_path / "two") / "discriminator-16.safetensors")[key]
            assert torch.allclose(value, other, atol=1e-6), key
    assert ("objective.k" in one_side) == ("began" in norm)


def test_a_trees_terms_are_told_with_their_resolution(stackflower) -> None:
    tree = ["--generator", "tree", *settings("generator.scales=2", "generator.resolution=32")]
    output = stackflower("train", "--out", "run", "--images", 8, *TINY, *tree).output
    assert "discriminator-16: " in output and "discriminator-32: " in output
    assert " adversarial-16 " in output and " adversarial-32 " in output
    one = stackflower("train", "--out", "one", "--images", 8, *TINY).output
    assert "discriminator: " in one and "generator: adversarial " in one


DROPS = """
import sys
import torch
from stackflower.objectives.began import BoundaryEquilibrium
from stackflower.objectives.base import Pairs
from stackflower.stages.base import Text, Verdict

rank, world = 0, 1
if len(sys.argv) > 1:
    torch.distributed.init_process_group("gloo")
    rank, world = torch.distributed.get_rank(), 2
errors = torch.tensor([0.2, 9.0, 8.0, 7.0, 0.1, 0.3, 0.4, 0.6])  # most of the first process's, none of the other's
own = torch.nn.Parameter(errors.clone())
goal = BoundaryEquilibrium(threshold=2.0)
goal.outliers.limit.fill_(1.0)
mine = slice(rank * 8 // world, (rank + 1) * 8 // world)
words = Text(torch.zeros(8, 1), torch.zeros(8, 1))
critic = lambda images, texts: [Verdict(own[mine] * scale) for scale in (1.0, 1.2)[: len(texts)]]
terms = goal.discriminator_terms(critic, Pairs(torch.zeros(8, 3, 1, 1), torch.zeros(8, 3, 1, 1), words, words, words))
(terms["real"] + terms["negative"]).backward()
if world > 1:
    torch.distributed.all_reduce(own.grad)
    own.grad /= world  # as gradients are exchanged
if rank == 0:
    print([round(v, 6) for v in [*own.grad.tolist(), *goal.outliers.statistics.tolist(), goal.outliers.dropped.item()]])
"""


def test_two_processes_leave_out_the_pictures_that_one_does(tmp_path: Path) -> None:
    (tmp_path / "drops.py").write_text(DROPS, encoding="utf-8")
    found = []
    for result in (launch(tmp_path, "drops.py"), two(tmp_path, "drops.py", "two")):
        assert result.returncode == 0, result.stderr[-3000:]
        found.append(json.loads(result.stdout.splitlines()[-1]))
    assert found[0] == pytest.approx(found[1], abs=1e-5) and found[0][-1] == 3
    assert found[0][:5] == pytest.approx([0.4 / 5, 0, 0, 0, 0.4 / 5], abs=1e-5)


def test_sampling_and_scoring_on_two_processes_as_on_one(tmp_path: Path, stackflower, trained: Path) -> None:
    captions = ["a red flower", "a blue flower with six petals", "white petals"]
    for way in ("plain", "best"):  # nine pictures: one process has one more to judge than the other
        options = ["--per-caption", "3", *(["--best-of", "2", "--batch-size", "4"] if way == "best" else [])]
        stackflower("sample", trained, *captions, *options, "--out", f"{way}-one")
        result = gloo(tmp_path, "sample", str(trained), *captions, *options, "--out", f"{way}-two")
        assert result.returncode == 0, result.stderr[-3000:]
        one, two = (
            {path.name: path.read_bytes() for path in (tmp_path / f"{way}-{n}").iterdir()} for n in ("one", "two")
        )
        assert one == two and len(one) == 10
    stackflower(
        "data",
        "make",
        "synthetic-flowers",
        "--out",
        "data",
        "--count",
        40,
        "--validation",
        24,
        "--test",
        8,
        "--resolution",
        64,
    )
    stackflower(
        "train-classifier",
        "--data",
        "data",
        "--out",
        "c.safetensors",
        "--resolution",
        16,
        "--network",
        "plain",
        "--epochs",
        1,
        "--text",
        "ngram",
    )
    arguments = ["eval", str(trained), "--extractor", "domain", "--weights", "c.safetensors", "--splits", "2"]
    arguments += ["--data", "data", "--split", "validation"]
    stackflower("sample", trained, "--captions", "data/validation/metadata.jsonl", "--out", "drawn")
    every = "is,fid,kid,prdc,captions,diversity,cosine,similarity,nearest,ms-ssim"
    folder = ["eval", "--images", "drawn", *arguments[2:], "--resolution", "16"]
    for command in (
        [*arguments, "--metrics", every],
        folder,
        ["eval", "--real", "test", *arguments[2:], "--resolution", "16"],
    ):
        alone = stackflower(*command).stdout
        result = gloo(tmp_path, *command)
        assert result.returncode == 0, result.stderr[-3000:]
        assert result.stdout.splitlines() == alone.splitlines(), "to the last printed digit"

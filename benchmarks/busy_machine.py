"""Compare fixed numbers of threads with the chosen one, alone and next to a busy process.

    python benchmarks/busy_machine.py

Each recipe is trained for some seconds with every fixed number of threads, in alternation, and once for longer with
the number that the training chooses, including its comparisons. The whole is repeated next to processes that compute
without pause. Run this script on an otherwise idle machine; across machines, compare only the last column.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

os.environ.pop("OMP_NUM_THREADS", None)  # read when torch is imported

import torch

import stackflower as sf
from stackflower.training.callbacks import TrainingProgress
from stackflower.utils.threads import list_candidates

WARM_UP_STEPS = 3
SETTINGS = {
    "data.count": 256,
    "data.validation": 8,
    "data.test": 8,
    "output.sample_every": 10**9,
    "output.checkpoint_every": 10**9,
}


class Stopwatch(sf.Callback):
    """Callback that measures the speed of a training and ends it.

    Args:
        seconds: time to measure, after the warm-up.
    """

    def __init__(self, seconds: float):
        self.seconds, self.began, self.first, self.speed = seconds, 0.0, 0, 0.0

    def on_step(self, progress: TrainingProgress) -> None:
        now = time.perf_counter()
        if progress.step <= WARM_UP_STEPS:
            self.began, self.first = now, progress.images
            return
        self.speed = (progress.images - self.first) / (now - self.began)
        if now - self.began >= self.seconds:
            progress.stop("the end of the measurement")


@contextmanager
def busy_processes(count: int) -> Iterator[None]:
    """Run processes that compute without pause beside the block."""
    processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def measure_speed(recipe: str, threads: int | None, seconds: float) -> float:
    """Measure the images per second of a training with a number of threads; None: the training chooses."""
    stopwatch = Stopwatch(seconds)
    with tempfile.TemporaryDirectory() as folder:
        sf.train(
            recipe,
            images=10**9,
            out=Path(folder) / "run",
            threads=threads,
            settings=SETTINGS,
            callbacks=stopwatch,
            progress_bar=False,
            tune_malloc=True,
        )
    return stopwatch.speed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipes", nargs="*", default=["quickstart", "photographs"])
    parser.add_argument("--seconds", type=float, default=8, help="length of a measurement with a fixed number")
    parser.add_argument("--chosen-seconds", type=float, default=55, help="length of that with the chosen number")
    parser.add_argument("--rounds", type=int, default=2, help="measurements with each fixed number")
    parser.add_argument("--busy", type=int, default=1, help="number of busy processes")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    numbers = sorted(list_candidates(torch.get_num_threads()))
    rows = []
    if not args.json:
        titles = ["recipe", "beside it", *(f"{n} thread{'' if n == 1 else 's'}" for n in numbers), "chosen"]
        print(f"| {' | '.join([*titles, 'chosen / best fixed'])} |\n|{' --- |' * (len(titles) + 1)}", flush=True)
    for recipe in args.recipes:
        measure_speed(recipe, None, 0)  # prepares the data
        for busy in (0, args.busy):
            with busy_processes(busy):
                speeds: dict[int, list[float]] = {threads: [] for threads in numbers}
                for _ in range(args.rounds):
                    for threads in numbers:
                        speeds[threads].append(measure_speed(recipe, threads, args.seconds))
                chosen = measure_speed(recipe, None, args.chosen_seconds)
            fixed = {threads: median(values) for threads, values in speeds.items()}
            ratio = chosen / max(fixed.values())
            rows.append({"recipe": recipe, "busy": busy, "fixed": fixed, "chosen": chosen, "ratio": ratio})
            if not args.json:
                beside = f"{busy} busy" if busy else "nothing"
                cells = [recipe, beside, *(f"{fixed[n]:.0f}" for n in numbers), f"{chosen:.0f}", f"{ratio:.2f}"]
                print(f"| {' | '.join(cells)} |", flush=True)
    if args.json:
        print(json.dumps({"cores": os.cpu_count(), "torch": torch.__version__, "rows": rows}))


if __name__ == "__main__":
    main()

"""Kill a run at random times, resume it each time, and compare all tensors with those of an uninterrupted run.

python benchmarks/kill_and_resume.py --times 20
"""

from __future__ import annotations

import argparse
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from safetensors.torch import load_file

from stackflower.runs.folder import Run

RUN = [
    "--images",
    "30000",
    "--batch-size",
    "8",
    "--mixed-precision",
    "no",
    "--threads",
    "1",
    "--set",
    "data.count=200",
    "--set",
    "generator.channels=4",
    "--set",
    "generator.resolution=16",
    "--set",
    "discriminator.channels=4",
    "--set",
    "train.load_size=64",
    "--set",
    "output.checkpoint_every=80",
    "--set",
    "output.log_every=5",
    "--set",
    "output.sample_every=10000",
]


def start_training(folder: Path, *arguments: str) -> subprocess.Popen[bytes]:
    """Start `stackflower train …` in its own process."""
    with (folder / "log.txt").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "stackflower", "train", *arguments], cwd=folder, stdout=log, stderr=log
        )


def measure_start_up(process: subprocess.Popen[bytes], run: Path) -> float:
    """Measure the seconds until a process has written the checkpoint that precedes its first step."""
    began = time.monotonic()
    while process.poll() is None and not ((run / "config.json").exists() and Run(run).list_checkpoints()):
        time.sleep(0.05)
    return time.monotonic() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=20)
    parser.add_argument(
        "--seconds",
        type=float,
        nargs=2,
        default=(-1.0, 2.0),
        help="range of times, relative to the first step, at which a process is killed",
    )
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    rng = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        process = start_training(folder, "--out", "uninterrupted", *RUN)
        start_up_seconds = measure_start_up(process, folder / "uninterrupted")
        assert process.wait() == 0, (folder / "log.txt").read_text()
        print(f"{start_up_seconds:.1f} s to the first step", flush=True)
        process, killed = start_training(folder, "--out", "run", *RUN), 0
        while killed < args.times:
            time.sleep(max(0.0, start_up_seconds + rng.uniform(*args.seconds)))
            if process.poll() is not None:
                break
            process.send_signal(signal.SIGKILL)
            process.wait()
            killed += 1
            has_started = (folder / "run" / "config.json").exists()
            checkpoints = Run(folder / "run").list_checkpoints() if has_started else []
            print(f"killed {killed} times; complete checkpoints: {[path.name for path in checkpoints]}", flush=True)
            process = start_training(folder, *(["--resume", "run"] if has_started else ["--out", "run", *RUN]))
        assert process.wait() == 0, (folder / "log.txt").read_text()[-3000:]
        expected_checkpoint, resumed_checkpoint = (
            Run(folder / run).list_checkpoints()[-1] for run in ("uninterrupted", "run")
        )
        models = [load_file(folder / run / "generator.safetensors") for run in ("uninterrupted", "run")]
        assert all(torch.equal(models[0][key], models[1][key]) for key in models[0])
        compared = 0
        for path in sorted(expected_checkpoint.glob("*.safetensors")):
            expected, resumed = load_file(path), load_file(resumed_checkpoint / path.name)
            assert expected.keys() == resumed.keys()
            for key in expected:
                assert torch.equal(expected[key], resumed[key]), f"{path.name}: {key}"
                compared += 1
    assert killed == args.times, f"the run ended after {killed} kills: shorten --seconds"
    print(f"{killed} kills, {compared} equal tensors")


if __name__ == "__main__":
    main()

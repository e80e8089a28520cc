"""Measure training on a GPU with one command; print a table and write ``gpu.json``.

    python benchmarks/gpu.py                    # on a machine with a GPU, about an hour
    python benchmarks/gpu.py --tiny             # the same code in a few minutes on a CPU, with tiny networks

For each recipe, at its size on this device, the script measures:

- images per second, eager and compiled;
- the share of the device's matrix rate, from the counted FLOPs of a step without penalties. The matrix rate is that of
  a large matrix product in the same precision;
- peak memory.

For `photographs`, it also measures:

- the losses of the same steps in float32, bf16 and fp16;
- whether a resumed run has the same weights as an uninterrupted one;
- the scores of `stackflower eval` after ten minutes of training.

The data are the synthetic flowers unless `--data` names another data set.
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from stackflower.errors import StackflowerError
from stackflower.recipes.load import describe_recipes
from stackflower.recipes.mini import MINI
from stackflower.utils.devices import describe_device, has_accelerator, resolve_precision

TYPES = {"no": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
TINY = {
    "generator.resolution": "16",
    "generator.channels": "8",
    "discriminator.channels": "8",
    "train.batch_size": "8",
    "train.load_size": "64",
}
DATA = {"data.count": "64", "data.validation": "16", "data.test": "16"}


def run_command(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command line in its own process, so that memory and compiled code are not shared."""
    return subprocess.run([sys.executable, "-m", "stackflower", *arguments], capture_output=True, text=True)


def read_last_line(process: subprocess.CompletedProcess[str]) -> str:
    """Return the last line that a failed process printed."""
    return (process.stderr.strip().splitlines() or [f"exit code {process.returncode}, no message"])[-1]


def format_settings(values: dict[str, str]) -> list[str]:
    """Format settings as ``--set`` options."""
    return [part for key, value in values.items() for part in ("--set", f"{key}={value}")]


def measure_matrix_rate(precision: str, seconds: float = 1.0) -> float:
    """Measure the FLOPs per second of a large matrix product in this precision."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    size = 8192 if device == "cuda" else 1024
    left, right = (torch.randn(size, size, device=device, dtype=TYPES[precision]) for _ in range(2))
    for _ in range(3):
        left @ right
    products, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        left @ right
        products += 1
        if device == "cuda":
            torch.cuda.synchronize()
    return products * 2 * size**3 / (time.perf_counter() - began)


class Checklist:
    """Measurements of training on this device.

    Args:
        folder: folder of the runs.
        common: options of every training.
        tiny: use tiny networks and few steps.
    """

    def __init__(self, folder: Path, common: list[str], tiny: bool):
        self.folder, self.common, self.tiny = folder, common, tiny

    def train(self, name: str, recipe: str, *more: str) -> tuple[Path | None, str]:
        """Train a recipe; return the run, or None and the error message."""
        run = self.folder / name
        tiny = format_settings(self._shrink(recipe)) if self.tiny else []
        process = run_command("train", "--recipe", recipe, "--out", str(run), *self.common, *tiny, *more)
        return (run, "") if process.returncode == 0 else (None, read_last_line(process))

    @staticmethod
    def _shrink(recipe: str) -> dict[str, str]:
        """Return the settings that make the networks of a recipe tiny."""
        values = dict(TINY)
        if recipe.startswith("stackgan-v2"):
            values |= {"generator.resolution": "32", "generator.scales": "2"}
        if recipe in ("photographs", "projected-gan"):
            values |= {"discriminator.size": "64", "discriminator.mixing": "8"}
        return values

    def choose_length(self, recipe: str) -> list[str]:
        """Return the options that set the length of a short training."""
        return ["--images", "64" if self.tiny else "20000", "--set", f"output.log_every={2 if self.tiny else 20}"]

    def measure_speed(self, recipe: str, compiled: bool) -> dict[str, Any]:
        """Measure the images per second over the last half of a training, and its peak memory."""
        name = f"{recipe}-{'compiled' if compiled else 'eager'}"
        run, problem = self.train(name, recipe, *self.choose_length(recipe), *(["--compile"] if compiled else []))
        if run is None:
            return {"problem": problem}
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        lines = [line for line in lines if "images_per_second" in line]
        last_half = lines[len(lines) // 2 :]
        results = {
            "images_per_second": sum(line["images_per_second"] for line in last_half) / len(last_half),
            "memory_gib": max(line.get("memory_gib", 0.0) for line in lines),
        }
        shutil.rmtree(run)
        return results

    def count_flops(self, recipe: str) -> float:
        """Return the FLOPs of a step per image, as counted by `--dry-run`."""
        tiny = format_settings(self._shrink(recipe)) if self.tiny else []
        text = run_command("train", "--recipe", recipe, *self.common, *tiny, "--images", "1000", "--dry-run").stdout
        plan, _ = json.JSONDecoder().raw_decode(text)
        line = next(line for line in text.splitlines() if line.startswith("FLOPs of a step"))
        return float(line.split()[4]) / plan["train"]["batch_size"]

    def compare_precisions(self) -> dict[str, Any]:
        """Compare the mean losses of the same steps in each precision."""
        results: dict[str, Any] = {}
        for precision in ("no", "bf16", "fp16"):
            run, problem = self.train(
                f"precision-{precision}",
                "photographs",
                *self.choose_length("photographs"),
                "--mixed-precision",
                precision,
            )
            if run is None:
                results[precision] = {"problem": problem}
                continue
            lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
            last = [line for line in lines if "images_per_second" in line][-1]
            results[precision] = {
                key: value for key, value in last.items() if key.startswith(("discriminator-", "generator/"))
            }
        return results

    def compare_resumed(self) -> dict[str, Any]:
        """Measure the largest weight difference between an uninterrupted and a resumed run."""
        images = 64 if self.tiny else 10_000
        length = ["--images", str(images), "--set", f"output.checkpoint_every={images // 2}"]
        run, problem = self.train("whole", "photographs", *length)
        if run is None:
            return {"problem": problem}
        uninterrupted = load_file(run / "generator.safetensors")
        shutil.rmtree(max((run / "checkpoints").glob("images-*")))
        (run / "generator.safetensors").unlink()
        process = run_command("train", "--resume", str(run))
        if process.returncode:
            return {"problem": read_last_line(process)}
        resumed = load_file(run / "generator.safetensors")
        return {
            "largest_difference": max(
                float((uninterrupted[key].float() - resumed[key].float()).abs().max()) for key in uninterrupted
            )
        }

    def train_and_score(self, minutes: float) -> dict[str, Any]:
        """Train `photographs` for some minutes and score the run."""
        run, problem = self.train("photographs", "photographs", "--time-limit", f"{round(60 * minutes)}s")
        if run is None:
            return {"problem": problem}
        process = run_command("eval", str(run), "--json", *(["--samples", "16"] if self.tiny else []))
        return json.loads(process.stdout) if process.returncode == 0 else {"problem": read_last_line(process)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="data set, as in stackflower train")
    parser.add_argument("--text", help="text encoder, as in stackflower train")
    parser.add_argument(
        "--recipes", nargs="*", default=[name for name in describe_recipes() if not name.endswith(MINI)]
    )
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--out", type=Path, default=Path("gpu.json"))
    args = parser.parse_args()
    if not (args.tiny or has_accelerator()):
        raise SystemExit("No GPU found. Use --tiny to run the same code with tiny networks.")
    common = [
        *(["--data", args.data] if args.data else format_settings(DATA) if args.tiny else []),
        *(["--text", args.text] if args.text else []),
    ]
    precision = resolve_precision("auto")
    results: dict[str, Any] = {
        "device": describe_device(precision),
        "machine": platform.platform(),
        "torch": torch.__version__,
        "matrix_rate": measure_matrix_rate(precision),
        "recipes": {},
    }
    with tempfile.TemporaryDirectory() as folder:
        checklist = Checklist(Path(folder), common, args.tiny)
        print(f"{results['device']}: {results['matrix_rate'] / 1e12:.2f} TFLOP/s in a matrix product")
        print(
            "| recipe | images per second | compiled | share of the matrix rate | memory, GiB |\n|---|---|---|---|---|",
            flush=True,
        )
        for recipe in args.recipes:
            try:
                eager, compiled = checklist.measure_speed(recipe, False), checklist.measure_speed(recipe, True)
                rates = [measured.get("images_per_second", 0.0) for measured in (eager, compiled)]
                share = max(rates) * checklist.count_flops(recipe) / results["matrix_rate"]
            except (StackflowerError, StopIteration, ValueError) as error:
                eager, compiled, rates, share = {"problem": str(error)}, {}, [0.0, 0.0], 0.0
            results["recipes"][recipe] = {"eager": eager, "compiled": compiled, "share_of_matrix_rate": share}
            problems = " ".join(measured["problem"] for measured in (eager, compiled) if "problem" in measured)
            print(
                f"| {recipe} | {rates[0]:.1f} | {rates[1]:.1f} | {share:.1%} | {eager.get('memory_gib', 0):.1f} | "
                f"{problems}",
                flush=True,
            )
        if "photographs" in args.recipes:
            for name, measure in (("precisions", checklist.compare_precisions), ("resume", checklist.compare_resumed)):
                results[name] = measure()
                print(name, json.dumps(results[name]), flush=True)
            results["photographs"] = checklist.train_and_score(args.minutes)
            print("photographs", json.dumps(results["photographs"]), flush=True)
    args.out.write_text(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()

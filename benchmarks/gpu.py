"""Everything that is to be known of training on a GPU, by one command; one table and ``gpu.json``.

    python benchmarks/gpu.py                    # on a machine with a GPU, about an hour
    python benchmarks/gpu.py --tiny             # the same code in a few minutes on a CPU, with tiny networks

For each recipe, at the size it has on this device: images a second, eager and compiled; the share of the device's matrix rate (measured by
a large product in the same precision) that this is, by the counted FLOPs of a step, without penalties; memory at its peak. Then, for
`photographs`: the losses of the same steps in float32, bf16 and fp16; whether a resumed run gives the weights of an uninterrupted one; and
ten minutes of training with the scores of `stackflower eval`. Data are the synthetic flowers unless `--data` names others.
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
from stackflower.recipes.load import recipes
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


def call(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The command line in a process of its own, so that memory and compiled code are its own too."""
    return subprocess.run([sys.executable, "-m", "stackflower", *arguments], capture_output=True, text=True)


def last_line(done: subprocess.CompletedProcess[str]) -> str:
    """What a process that failed said last."""
    return (done.stderr.strip().splitlines() or [f"exit code {done.returncode}, no message"])[-1]


def settings(values: dict[str, str]) -> list[str]:
    """As ``--set`` options."""
    return [part for key, value in values.items() for part in ("--set", f"{key}={value}")]


def matrix_rate(precision: str, seconds: float = 1.0) -> float:
    """FLOPs a second of a large matrix product in this precision."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    size = 8192 if device == "cuda" else 1024
    one, other = (torch.randn(size, size, device=device, dtype=TYPES[precision]) for _ in range(2))
    for _ in range(3):
        one @ other
    products, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        one @ other
        products += 1
        if device == "cuda":
            torch.cuda.synchronize()
    return products * 2 * size**3 / (time.perf_counter() - began)


class Checklist:
    """The measurements.

    Args:
        folder: of the runs.
        common: options of every training.
        tiny: tiny networks and few steps.
    """

    def __init__(self, folder: Path, common: list[str], tiny: bool):
        self.folder, self.common, self.tiny = folder, common, tiny

    def train(self, name: str, recipe: str, *more: str) -> tuple[Path | None, str]:
        """A run, or None and why there is none."""
        run = self.folder / name
        tiny = settings(self._tiny(recipe)) if self.tiny else []
        done = call("train", "--recipe", recipe, "--out", str(run), *self.common, *tiny, *more)
        return (run, "") if done.returncode == 0 else (None, last_line(done))

    @staticmethod
    def _tiny(recipe: str) -> dict[str, str]:
        values = dict(TINY)
        if recipe.startswith("stackgan-v2"):
            values |= {"generator.resolution": "32", "generator.scales": "2"}
        if recipe in ("photographs", "projected-gan"):
            values |= {"discriminator.size": "64", "discriminator.mixing": "8"}
        return values

    def steps(self, recipe: str) -> list[str]:
        """Options for a short measurement."""
        return ["--images", "64" if self.tiny else "20000", "--set", f"output.log_every={2 if self.tiny else 20}"]

    def speed(self, recipe: str, compiled: bool) -> dict[str, Any]:
        """Images a second, without what comes before the last half; memory; FLOPs a step."""
        name = f"{recipe}-{'compiled' if compiled else 'eager'}"
        run, problem = self.train(name, recipe, *self.steps(recipe), *(["--compile"] if compiled else []))
        if run is None:
            return {"problem": problem}
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        lines = [line for line in lines if "images_per_second" in line]
        late = lines[len(lines) // 2 :]
        found = {
            "images_per_second": sum(line["images_per_second"] for line in late) / len(late),
            "memory_gib": max(line.get("memory_gib", 0.0) for line in lines),
        }
        shutil.rmtree(run)
        return found

    def flops(self, recipe: str) -> float:
        """FLOPs of an image's share of a step, as `--dry-run` counts them."""
        tiny = settings(self._tiny(recipe)) if self.tiny else []
        text = call("train", "--recipe", recipe, *self.common, *tiny, "--images", "1000", "--dry-run").stdout
        plan, _ = json.JSONDecoder().raw_decode(text)
        line = next(line for line in text.splitlines() if line.startswith("FLOPs of a step"))
        return float(line.split()[4]) / plan["train"]["batch_size"]

    def precisions(self) -> dict[str, Any]:
        """The mean losses of the same steps in each precision."""
        found: dict[str, Any] = {}
        for precision in ("no", "bf16", "fp16"):
            run, problem = self.train(
                f"precision-{precision}", "photographs", *self.steps("photographs"), "--mixed-precision", precision
            )
            if run is None:
                found[precision] = {"problem": problem}
                continue
            lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
            last = [line for line in lines if "images_per_second" in line][-1]
            found[precision] = {
                key: value for key, value in last.items() if key.startswith(("discriminator-", "generator/"))
            }
        return found

    def resume(self) -> dict[str, Any]:
        """The largest difference of weights between a run in one piece and one that went on from its middle."""
        whole = 64 if self.tiny else 10_000
        length = ["--images", str(whole), "--set", f"output.checkpoint_every={whole // 2}"]
        run, problem = self.train("whole", "photographs", *length)
        if run is None:
            return {"problem": problem}
        first = load_file(run / "generator.safetensors")
        shutil.rmtree(max((run / "checkpoints").glob("images-*")))
        (run / "generator.safetensors").unlink()
        done = call("train", "--resume", str(run))
        if done.returncode:
            return {"problem": last_line(done)}
        second = load_file(run / "generator.safetensors")
        return {
            "largest_difference": max(float((first[key].float() - second[key].float()).abs().max()) for key in first)
        }

    def photographs(self, minutes: float) -> dict[str, Any]:
        """Training for some minutes, and its scores."""
        run, problem = self.train("photographs", "photographs", "--time-limit", f"{round(60 * minutes)}s")
        if run is None:
            return {"problem": problem}
        done = call("eval", str(run), "--json", *(["--samples", "16"] if self.tiny else []))
        return json.loads(done.stdout) if done.returncode == 0 else {"problem": last_line(done)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="as of stackflower train")
    parser.add_argument("--text", help="as of stackflower train")
    parser.add_argument("--recipes", nargs="*", default=[name for name in recipes() if not name.endswith(MINI)])
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--out", type=Path, default=Path("gpu.json"))
    args = parser.parse_args()
    if not (args.tiny or has_accelerator()):
        raise SystemExit("There is no GPU here; --tiny runs the same code with tiny networks.")
    common = [
        *(["--data", args.data] if args.data else settings(DATA) if args.tiny else []),
        *(["--text", args.text] if args.text else []),
    ]
    precision = resolve_precision("auto")
    found: dict[str, Any] = {
        "device": describe_device(precision),
        "machine": platform.platform(),
        "torch": torch.__version__,
        "matrix_rate": matrix_rate(precision),
        "recipes": {},
    }
    with tempfile.TemporaryDirectory() as folder:
        checklist = Checklist(Path(folder), common, args.tiny)
        print(f"{found['device']}: {found['matrix_rate'] / 1e12:.2f} TFLOP/s in a matrix product")
        print(
            "| recipe | images a second | compiled | share of the matrix rate | memory, GiB |\n|---|---|---|---|---|",
            flush=True,
        )
        for recipe in args.recipes:
            try:
                eager, compiled = checklist.speed(recipe, False), checklist.speed(recipe, True)
                rates = [one.get("images_per_second", 0.0) for one in (eager, compiled)]
                share = max(rates) * checklist.flops(recipe) / found["matrix_rate"]
            except (StackflowerError, StopIteration, ValueError) as error:
                eager, compiled, rates, share = {"problem": str(error)}, {}, [0.0, 0.0], 0.0
            found["recipes"][recipe] = {"eager": eager, "compiled": compiled, "share_of_matrix_rate": share}
            problems = " ".join(one["problem"] for one in (eager, compiled) if "problem" in one)
            print(
                f"| {recipe} | {rates[0]:.1f} | {rates[1]:.1f} | {share:.1%} | {eager.get('memory_gib', 0):.1f} | {problems}",
                flush=True,
            )
        if "photographs" in args.recipes:
            for name, measure in (("precisions", checklist.precisions), ("resume", checklist.resume)):
                found[name] = measure()
                print(name, json.dumps(found[name]), flush=True)
            found["photographs"] = checklist.photographs(args.minutes)
            print("photographs", json.dumps(found["photographs"]), flush=True)
    args.out.write_text(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()

"""Print a SHA-256 of the weights of every mini variant after a few steps.

A change that only moves code does not change these digests.

    python benchmarks/weights_digest.py > before.txt
    # change, then
    python benchmarks/weights_digest.py | diff before.txt -

Each recipe is trained for 12 steps in float32 on one thread, on a small synthetic data set, from a fixed seed. If the
recipe has a second stage, it is trained on top of the first. The digest covers the tensors of the last checkpoint,
including those of the optimizers, whatever their names. Digests are comparable on one machine only, because kernels
differ between processors.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from safetensors.torch import load_file

STEPS = 12
TINY = ["--mixed-precision", "no", "--seed", "3"]
DATA = ["--set", "data.count=64", "--set", "data.validation=8"]


def stackflower(*arguments: str) -> str:
    """Run the command line on one thread and return its stdout."""
    one_thread = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    result = subprocess.run(
        [sys.executable, "-m", "stackflower", *arguments], env=one_thread, capture_output=True, text=True
    )
    if result.returncode:
        raise SystemExit(f"stackflower {' '.join(arguments)}\n{result.stderr}")
    return result.stdout


def compute_digest(run: Path) -> str:
    """Compute the digest of all tensors in the newest checkpoint, except the states of random generators."""
    newest = max((run / "checkpoints").glob("images-*"))
    files = [path for path in newest.glob("*.safetensors") if not path.name.startswith("rng-")]
    digests = [
        hashlib.sha256(f"{tensor.dtype} {tuple(tensor.shape)}".encode() + tensor.numpy().tobytes()).hexdigest()
        for path in files
        for tensor in load_file(path).values()
    ]
    return hashlib.sha256("".join(sorted(digests)).encode()).hexdigest()


def train_and_digest(recipe: str, run: Path, *more: str) -> str:
    """Train a recipe for `STEPS` steps and return the digest of the run."""
    common = ["train", "--recipe", recipe, "--out", str(run), *TINY, *more]
    plan, _ = json.JSONDecoder().raw_decode(stackflower(*common, "--dry-run"))
    images = STEPS * plan["train"]["batch_size"] * plan["train"]["critic_steps"]
    stackflower(*common, "--images", str(images))
    return compute_digest(run)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("recipes", nargs="*", help="default: quickstart and every mini variant")
    known_recipes = json.loads(stackflower("ls", "recipe", "--json"))["parts"]
    default = ["quickstart", *(row["name"] for row in known_recipes if row["name"].endswith("-mini"))]
    with tempfile.TemporaryDirectory() as folder:
        for recipe in parser.parse_args().recipes or default:
            first_run = Path(folder) / recipe
            print(f"{recipe} 1 {train_and_digest(recipe, first_run, '--stage', '1', *DATA)}", flush=True)
            try:
                second_digest = train_and_digest(
                    recipe, Path(folder) / f"{recipe}-2", "--stage", "2", "--below", str(first_run)
                )
            except SystemExit as error:
                if "has no later stage" not in str(error):
                    raise
                continue
            print(f"{recipe} 2 {second_digest}", flush=True)


if __name__ == "__main__":
    main()

"""SHA-256 over the weights of every mini variant after a few steps: equal before and after a change that only moves code.

    python benchmarks/weights_digest.py > before.txt
    # change, then
    python benchmarks/weights_digest.py | diff before.txt -

Each recipe is trained for 12 steps in float32 on one thread, on a small synthetic data set, from a fixed seed; then its second stage,
where it has one, on top of it. The digest is of the tensors of the last checkpoint, those of the optimizers included, whatever their
names. Digests are comparable on one machine only: kernels differ between processors.
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
    """Run the command line on one thread; returns its stdout."""
    one_thread = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "stackflower", *arguments], env=one_thread, capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(f"stackflower {' '.join(arguments)}\n{done.stderr}")
    return done.stdout


def digest(run: Path) -> str:
    """The digest of every tensor in the newest checkpoint but the states of random generators."""
    newest = max((run / "checkpoints").glob("images-*"))
    files = [path for path in newest.glob("*.safetensors") if not path.name.startswith("rng-")]
    each = [
        hashlib.sha256(f"{tensor.dtype} {tuple(tensor.shape)}".encode() + tensor.numpy().tobytes()).hexdigest()
        for path in files
        for tensor in load_file(path).values()
    ]
    return hashlib.sha256("".join(sorted(each)).encode()).hexdigest()


def train(recipe: str, run: Path, *more: str) -> str:
    """Train a recipe for `STEPS` steps; returns the digest of the run."""
    common = ["train", "--recipe", recipe, "--out", str(run), *TINY, *more]
    plan, _ = json.JSONDecoder().raw_decode(stackflower(*common, "--dry-run"))
    images = STEPS * plan["train"]["batch_size"] * plan["train"]["critic_steps"]
    stackflower(*common, "--images", str(images))
    return digest(run)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("recipes", nargs="*", help="default: quickstart and every mini variant")
    listed = json.loads(stackflower("ls", "recipe", "--json"))["parts"]
    default = ["quickstart", *(row["name"] for row in listed if row["name"].endswith("-mini"))]
    with tempfile.TemporaryDirectory() as folder:
        for recipe in parser.parse_args().recipes or default:
            first = Path(folder) / recipe
            print(f"{recipe} 1 {train(recipe, first, '--stage', '1', *DATA)}", flush=True)
            try:
                second = train(recipe, Path(folder) / f"{recipe}-2", "--stage", "2", "--below", str(first))
            except SystemExit as error:
                if "no [stage2] table" not in str(error):
                    raise
                continue
            print(f"{recipe} 2 {second}", flush=True)


if __name__ == "__main__":
    main()

"""SHA-256 over all weights of every small recipe after a few steps: the same before and after a change that moves code only.

    python benchmarks/weights_digest.py > before.txt
    # change, then
    python benchmarks/weights_digest.py | diff before.txt -

Each recipe trains for 12 steps in float32 on one thread, on a tiny drawn set, from a fixed seed; then its second stage, where it has
one, over that. The digest is of the tensors of the last checkpoint, optimizers' included, whatever their names. Digests compare on
one machine only: kernels differ between processors.
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
    """Run the command line on one thread; its standard output."""
    one_thread = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "stackflower", *arguments], env=one_thread, capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(f"stackflower {' '.join(arguments)}\n{done.stderr}")
    return done.stdout


def digest(run: Path) -> str:
    """Of every tensor in the newest checkpoint; random states, which name no weights, are left out."""
    newest = max((run / "checkpoints").glob("images-*"))
    files = [path for path in newest.glob("*.safetensors") if not path.name.startswith("rng-")]
    each = [
        hashlib.sha256(f"{tensor.dtype} {tuple(tensor.shape)}".encode() + tensor.numpy().tobytes()).hexdigest()
        for path in files
        for tensor in load_file(path).values()
    ]
    return hashlib.sha256("".join(sorted(each)).encode()).hexdigest()


def train(recipe: str, run: Path, *more: str) -> str:
    """Train `STEPS` steps of a recipe and digest the run."""
    common = ["train", "--recipe", recipe, "--out", str(run), *TINY, *more]
    plan, _ = json.JSONDecoder().raw_decode(stackflower(*common, "--dry-run"))
    images = STEPS * plan["train"]["batch_size"] * plan["train"]["critic_steps"]
    stackflower(*common, "--images", str(images))
    return digest(run)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("recipes", nargs="*", help="default: every small recipe")
    listed = json.loads(stackflower("ls", "recipe", "--json"))["parts"]
    small = ["quickstart", *(row["name"] for row in listed if row["name"].endswith("-mini"))]
    with tempfile.TemporaryDirectory() as folder:
        for recipe in parser.parse_args().recipes or small:
            below = Path(folder) / recipe
            print(f"{recipe} 1 {train(recipe, below, '--stage', '1', *DATA)}", flush=True)
            try:
                upper = train(recipe, Path(folder) / f"{recipe}-2", "--stage", "2", "--below", str(below))
            except SystemExit as error:
                if "no [stage2] table" not in str(error):
                    raise
                continue
            print(f"{recipe} 2 {upper}", flush=True)


if __name__ == "__main__":
    main()

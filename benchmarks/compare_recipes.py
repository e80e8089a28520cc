"""Train and score every mini variant on the same data for the same time, and print one table.

    python benchmarks/compare_recipes.py --minutes 8

The script first measures the speed of each variant, with nothing else running. The speed determines how many images fit
into the given time. Each variant is then trained on that number of images and scored by `stackflower eval` on the
validation split, on which the settings were chosen.

With `--jobs 2`, two variants are trained at a time, each on half of the cores. The results are the same, because the
number of images is fixed.

Finished results are kept, so the command can be repeated. Results of another recipe, seed or number of images are
computed again. The folder ``gallery/``, in the folder of the runs, contains images of each variant for four captions
(NAME.jpg) and its curves (NAME.svg).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from PIL import Image

from stackflower.recipes.load import describe_recipes, load_recipe
from stackflower.recipes.mini import MINI

HEADER = (
    "| recipe | images | images per second | IS; of real images | share | colour | shape | centre | diversity | FD |"
)

CAPTIONS = (
    "a red flower with pointed petals and a yellow center",
    "a blue flower with rounded petals and a white center",
    "a white flower with ruffled petals and a brown center",
    "a purple flower with slender petals and a green center",
)


def stackflower(*arguments: str, threads: int, cwd: Path) -> str:
    """Run the command line on `threads` threads and return its stdout."""
    result = subprocess.run(
        [sys.executable, "-m", "stackflower", *arguments],
        cwd=cwd,
        env={**os.environ, "OMP_NUM_THREADS": str(threads)},
        capture_output=True,
        text=True,
    )
    if result.returncode:
        raise SystemExit(f"stackflower {' '.join(arguments)} failed:\n{result.stderr[-2000:]}")
    return result.stdout


def read_result(file: Path, settings: dict[str, Any]) -> Any:
    """Return the result that an earlier call saved for the same settings, else None."""
    if file.exists() and (values := json.loads(file.read_text()))["settings"] == settings:
        return values["found"]
    return None


def save_result(file: Path, settings: dict[str, Any], result: Any) -> None:
    """Save a result together with its settings."""
    file.write_text(json.dumps({"settings": settings, "found": result}, indent=2))


def measure_speed(recipe: str, out: Path, seed: int) -> float:
    """Measure the images per second of a run of 30 seconds, ignoring its first quarter."""
    run, settings = f"speed-{recipe}", {"settings": load_recipe(recipe), "seed": seed}
    rate: float | None = read_result(out / f"{run}.json", settings)
    if rate is None:
        shutil.rmtree(out / run, ignore_errors=True)
        stackflower(
            *("train", "--recipe", recipe, "--out", run, "--time-limit", "30s", "--seed", str(seed)),
            *("--set", "output.log_every=10"),
            threads=os.cpu_count() or 1,
            cwd=out,
        )
        lines = [json.loads(line) for line in (out / run / "metrics.jsonl").read_text().splitlines()]
        first, last = lines[len(lines) // 4], lines[-1]
        rate = (last["images"] - first["images"]) / (last["seconds"] - first["seconds"])
        save_result(out / f"{run}.json", settings, rate)
    return rate


def train_and_score(recipe: str, images: int, out: Path, threads: int, seed: int) -> dict[str, Any]:
    """Train and evaluate a recipe, or read the scores that an earlier call saved."""
    file, begun_file = out / f"{recipe}.json", out / f"{recipe}.begun.json"
    settings = {"settings": load_recipe(recipe), "images": images, "seed": seed}
    scores: dict[str, Any] | None = read_result(file, settings)
    if scores is None:
        arguments = ["train", "--recipe", recipe, "--out", recipe, "--images", str(images), "--seed", str(seed)]
        if read_result(begun_file, settings) and (out / recipe / "config.json").exists():
            arguments = ["train", "--resume", recipe]
        else:
            shutil.rmtree(out / recipe, ignore_errors=True)
            (out / "gallery" / f"{recipe}.jpg").unlink(missing_ok=True)
            save_result(begun_file, settings, True)
        stackflower(*arguments, threads=threads, cwd=out)
        scores = json.loads(stackflower("eval", recipe, "--split", "validation", "--json", threads=threads, cwd=out))
        save_result(file, settings, scores)
    return scores


def write_gallery(recipe: str, out: Path, threads: int) -> None:
    """Write six images per caption, and the curves, to the gallery."""
    gallery = out / "gallery"
    gallery.mkdir(exist_ok=True)
    grid = gallery / f"{recipe}.jpg"
    if not grid.exists():
        stackflower("report", recipe, threads=threads, cwd=out)
        shutil.copyfile(out / recipe / "curves.svg", grid.with_suffix(".svg"))
        images = out / recipe / "gallery.png"
        stackflower(
            *("sample", recipe, *CAPTIONS, "--per-caption", "6", "--grid", "--out", str(images.resolve())),
            threads=threads,
            cwd=out,
        )
        with Image.open(images) as image:
            image.convert("RGB").save(grid, quality=75)


def format_row(recipe: str, images: int, rate: float, scores: dict[str, Any]) -> str:
    """Format the scores of a recipe as a row of the table."""
    accuracy = scores["caption_accuracy"]
    return (
        f"| `{recipe}` | {images:,} | {rate:.0f} | {scores['inception_score_mean']:.2f}; "
        f"{scores['real_inception_score_mean']:.2f} | {scores['inception_score_share_of_real']:.0%} | "
        f"{accuracy['colour']:.3f} | {accuracy['shape']:.3f} | {accuracy['centre']:.3f} | "
        f"{scores['diversity_within_caption']['value']:.2f} | {scores['frechet_distance']:.1f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--out", type=Path, default=Path("runs/compare"))
    parser.add_argument("--recipes", nargs="*", default=[name for name in describe_recipes() if name.endswith(MINI)])
    parser.add_argument("--jobs", type=int, default=1, help="number of runs to train at a time")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    if not (args.out / "warm-up").exists():  # prepare the data once, outside the timing
        warm_up = ("train", "--recipe", args.recipes[0], "--out", "warm-up", "--images", "64", "--seed", str(args.seed))
        stackflower(*warm_up, threads=os.cpu_count() or 1, cwd=args.out)
    rates = {name: measure_speed(name, args.out, args.seed) for name in args.recipes}
    image_counts = {name: int(rate * args.minutes * 60) // 100 * 100 for name, rate in rates.items()}
    threads = max(1, (os.cpu_count() or 1) // args.jobs)
    with ThreadPoolExecutor(args.jobs) as pool:
        results = pool.map(
            lambda name: train_and_score(name, image_counts[name], args.out, threads, args.seed), args.recipes
        )
        rows = [
            format_row(name, image_counts[name], rates[name], scores)
            for name, scores in zip(args.recipes, results, strict=True)
        ]
    for name in args.recipes:
        write_gallery(name, args.out, threads)
    rows.sort()
    table = "\n".join([HEADER, "|" + "---|" * (HEADER.count("|") - 1), *rows])
    (args.out / "table.md").write_text(f"{platform.processor() or platform.machine()}\n\n{table}\n", encoding="utf-8")
    print(table)


if __name__ == "__main__":
    main()

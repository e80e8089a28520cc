"""Train and score every mini variant on the same data for the same time on this machine; one table.

    python benchmarks/compare_recipes.py --minutes 8

The speed of each is measured first, with nothing else running, which gives the number of images for the time; then each is trained on
that number of images and scored by `stackflower eval` on the validation split, on
which the settings were chosen. With `--jobs 2`, two are trained at a time on half of the cores each; the
results are the same, as the number of images is fixed. Finished results are kept, so the command can be repeated; results of another
recipe, seed or number of images are computed again. ``gallery/``, in the folder of the runs, has images of each for four captions
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

from stackflower.recipes.load import load_recipe, recipes
from stackflower.recipes.mini import MINI

HEADER = "| recipe | images | images a second | IS; of real | share | colour | shape | centre | diversity | FD |"

CAPTIONS = (
    "a red flower with pointed petals and a yellow center",
    "a blue flower with rounded petals and a white center",
    "a white flower with ruffled petals and a brown center",
    "a purple flower with slender petals and a green center",
)


def stackflower(*arguments: str, threads: int, cwd: Path) -> str:
    """Run the command line on a number of threads; returns its stdout."""
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


def kept(file: Path, settings: dict[str, Any]) -> Any:
    """The result that an earlier call saved, if it was of the same settings; else None."""
    if file.exists() and (values := json.loads(file.read_text()))["settings"] == settings:
        return values["found"]
    return None


def keep(file: Path, settings: dict[str, Any], result: Any) -> None:
    """Save a result with its settings."""
    file.write_text(json.dumps({"settings": settings, "found": result}, indent=2))


def speed(recipe: str, out: Path, seed: int) -> float:
    """Images per second of a run of 30 seconds, without its first quarter."""
    run, settings = f"speed-{recipe}", {"settings": load_recipe(recipe), "seed": seed}
    rate: float | None = kept(out / f"{run}.json", settings)
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
        keep(out / f"{run}.json", settings, rate)
    return rate


def score(recipe: str, images: int, out: Path, threads: int, seed: int) -> dict[str, Any]:
    """Train and evaluate, or read the scores that an earlier call saved."""
    file, begun = out / f"{recipe}.json", out / f"{recipe}.begun.json"
    settings = {"settings": load_recipe(recipe), "images": images, "seed": seed}
    scores: dict[str, Any] | None = kept(file, settings)
    if scores is None:
        arguments = ["train", "--recipe", recipe, "--out", recipe, "--images", str(images), "--seed", str(seed)]
        if kept(begun, settings) and (out / recipe / "config.json").exists():
            arguments = ["train", "--resume", recipe]
        else:
            shutil.rmtree(out / recipe, ignore_errors=True)
            (out / "gallery" / f"{recipe}.jpg").unlink(missing_ok=True)
            keep(begun, settings, True)
        stackflower(*arguments, threads=threads, cwd=out)
        scores = json.loads(stackflower("eval", recipe, "--split", "validation", "--json", threads=threads, cwd=out))
        keep(file, settings, scores)
    return scores


def show(recipe: str, out: Path, threads: int) -> None:
    """Write six images of each caption, and the curves, into the gallery."""
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


def row(recipe: str, images: int, rate: float, scores: dict[str, Any]) -> str:
    accuracy = scores["caption_accuracy"]
    return (
        f"| `{recipe}` | {images:,} | {rate:.0f} | {scores['inception_score_mean']:.2f}; "
        f"{scores['real_inception_score_mean']:.2f} | {scores['inception_score_share_of_real']:.0%} | {accuracy['colour']:.3f} | "
        f"{accuracy['shape']:.3f} | {accuracy['centre']:.3f} | {scores['diversity_within_caption']['value']:.2f} | "
        f"{scores['frechet_distance']:.1f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--out", type=Path, default=Path("runs/compare"))
    parser.add_argument("--recipes", nargs="*", default=[name for name in recipes() if name.endswith(MINI)])
    parser.add_argument("--jobs", type=int, default=1, help="number of runs that are trained at a time")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    if not (args.out / "warm-up").exists():  # the data are prepared once, outside of the timing
        first = ("train", "--recipe", args.recipes[0], "--out", "warm-up", "--images", "64", "--seed", str(args.seed))
        stackflower(*first, threads=os.cpu_count() or 1, cwd=args.out)
    rates = {name: speed(name, args.out, args.seed) for name in args.recipes}
    counts = {name: int(rate * args.minutes * 60) // 100 * 100 for name, rate in rates.items()}
    threads = max(1, (os.cpu_count() or 1) // args.jobs)
    with ThreadPoolExecutor(args.jobs) as pool:
        results = pool.map(lambda name: score(name, counts[name], args.out, threads, args.seed), args.recipes)
        rows = [
            row(name, counts[name], rates[name], scores) for name, scores in zip(args.recipes, results, strict=True)
        ]
    for name in args.recipes:
        show(name, args.out, threads)
    rows.sort()
    table = "\n".join([HEADER, "|" + "---|" * (HEADER.count("|") - 1), *rows])
    (args.out / "table.md").write_text(f"{platform.processor() or platform.machine()}\n\n{table}\n", encoding="utf-8")
    print(table)


if __name__ == "__main__":
    main()

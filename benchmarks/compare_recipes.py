"""Every recipe's small sibling, the same data, the same minutes on this machine, in one table.

    python benchmarks/compare_recipes.py --minutes 8

Each sibling's speed is measured first, alone on the machine, which says how many images the minutes hold; then each trains on
so many images and is scored by `stackflower eval`. With `--jobs 2` two train side by side on half of the cores each: it takes
as long and gives the same, as the number of images is fixed. What is finished is kept, so the command can be repeated; what was
made with another recipe, seed or number of images is made anew.
``gallery/`` beside the runs holds what each draws for four captions, as NAME.jpg, and its curves, as NAME.svg.
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
    """Run the command line on so many threads; its stdout."""
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


def kept(file: Path, asked: dict[str, Any]) -> Any:
    """What an earlier call found, if it was asked for the same; else None."""
    if file.exists() and (values := json.loads(file.read_text()))["asked"] == asked:
        return values["found"]
    return None


def keep(file: Path, asked: dict[str, Any], found: Any) -> None:
    file.write_text(json.dumps({"asked": asked, "found": found}, indent=2))


def speed(recipe: str, out: Path, seed: int) -> float:
    """Images a second, the machine to itself: two thirds of half a minute, after the first steps."""
    run, asked = f"speed-{recipe}", {"settings": load_recipe(recipe), "seed": seed}
    rate: float | None = kept(out / f"{run}.json", asked)
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
        keep(out / f"{run}.json", asked, rate)
    return rate


def score(recipe: str, images: int, out: Path, threads: int, seed: int) -> dict[str, Any]:
    """Train and evaluate, or read what an earlier call found."""
    file, begun = out / f"{recipe}.json", out / f"{recipe}.begun.json"
    asked = {"settings": load_recipe(recipe), "images": images, "seed": seed}
    scores: dict[str, Any] | None = kept(file, asked)
    if scores is None:
        arguments = ["train", "--recipe", recipe, "--out", recipe, "--images", str(images), "--seed", str(seed)]
        if kept(begun, asked) and (out / recipe / "config.json").exists():
            arguments = ["train", "--resume", recipe]
        else:
            shutil.rmtree(out / recipe, ignore_errors=True)
            (out / "gallery" / f"{recipe}.jpg").unlink(missing_ok=True)
            keep(begun, asked, True)
        stackflower(*arguments, threads=threads, cwd=out)
        scores = json.loads(stackflower("eval", recipe, "--json", threads=threads, cwd=out))
        keep(file, asked, scores)
    return scores


def show(recipe: str, out: Path, threads: int) -> None:
    """Into the gallery: six pictures of each caption, and the curves."""
    gallery = out / "gallery"
    gallery.mkdir(exist_ok=True)
    grid = gallery / f"{recipe}.jpg"
    if not grid.exists():
        stackflower("report", recipe, threads=threads, cwd=out)
        shutil.copyfile(out / recipe / "curves.svg", grid.with_suffix(".svg"))
        drawn = out / recipe / "gallery.png"
        stackflower(
            *("sample", recipe, *CAPTIONS, "--per-caption", "6", "--grid", "--out", str(drawn.resolve())),
            threads=threads,
            cwd=out,
        )
        with Image.open(drawn) as picture:
            picture.convert("RGB").save(grid, quality=75)


def row(recipe: str, images: int, rate: float, scores: dict[str, Any]) -> str:
    right = scores["caption_accuracy"]
    return (
        f"| `{recipe}` | {images:,} | {rate:.0f} | {scores['inception_score_mean']:.2f}; "
        f"{scores['real_inception_score_mean']:.2f} | {scores['inception_score_share_of_real']:.0%} | {right['colour']:.3f} | "
        f"{right['shape']:.3f} | {right['centre']:.3f} | {scores['diversity_within_caption']['value']:.2f} | "
        f"{scores['frechet_distance']:.1f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--out", type=Path, default=Path("runs/compare"))
    parser.add_argument("--recipes", nargs="*", default=[name for name in recipes() if name.endswith(MINI)])
    parser.add_argument("--jobs", type=int, default=1, help="how many train side by side")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    if not (asked.out / "warm-up").exists():  # what is prepared once is no recipe's cost
        first = ("train", "--recipe", asked.recipes[0], "--out", "warm-up", "--images", "64", "--seed", str(asked.seed))
        stackflower(*first, threads=os.cpu_count() or 1, cwd=asked.out)
    rates = {name: speed(name, asked.out, asked.seed) for name in asked.recipes}
    counts = {name: int(rate * asked.minutes * 60) // 100 * 100 for name, rate in rates.items()}
    threads = max(1, (os.cpu_count() or 1) // asked.jobs)
    with ThreadPoolExecutor(asked.jobs) as pool:
        found = pool.map(lambda name: score(name, counts[name], asked.out, threads, asked.seed), asked.recipes)
        rows = [row(name, counts[name], rates[name], scores) for name, scores in zip(asked.recipes, found, strict=True)]
    for name in asked.recipes:
        show(name, asked.out, threads)
    rows.sort()
    table = "\n".join([HEADER, "|" + "---|" * (HEADER.count("|") - 1), *rows])
    (asked.out / "table.md").write_text(f"{platform.processor() or platform.machine()}\n\n{table}\n", encoding="utf-8")
    print(table)


if __name__ == "__main__":
    main()

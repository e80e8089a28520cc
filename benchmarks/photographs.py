"""Recipes on photographs for the same minutes on this machine, judged on held-out captions by two networks that none was trained against.

    python benchmarks/photographs.py --data flowers --minutes 25
    python benchmarks/photographs.py --data flowers --runs runs/a runs/b      # judge runs that exist
    python benchmarks/photographs.py --data flowers --recipes photographs --minutes 15 --few 500 --out runs/few

``flowers`` is a folder with the splits ``train`` and ``validation``, with captions and labels. Settings were chosen on the validation
split; `--split` names another. Judges are described in `judges.py`; A is trained first (half an hour on two cores) and kept. Each run is
trained alone, with all cores, by `stackflower train --time-limit`. The table, ``scores.json`` and a grid for each run, NAME.png, are
written into `--out`; what is finished is kept, so that the command can be repeated. With `--few N`, runs are trained on N images evenly
spaced over the training split, and the table says how many generated images are nearer to a training image than those are to one another
(`stackflower report --nearest`).
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from judges import EDGE, Judges, Split, judge_a

from stackflower import registry
from stackflower.data.opening import open_source
from stackflower.data.prepared import prepare
from stackflower.pipeline import Pipeline
from stackflower.runs.trained_text import encoder_part
from stackflower.text.cache import embed

RECIPES = ("quickstart", "photographs", "projected-gan-mini", "r3gan-mini", "df-gan-mini")
CAPTIONS = (
    "this flower has long yellow petals and a dark brown center",
    "a pink flower with many layers of ruffled petals",
    "white petals with a yellow center",
    "a purple flower with pointed petals",
    "a bright red flower with large rounded petals",
)
KEPT = 5  # captions of an image that the judges know
DIVERSE, LATENTS = 100, 8  # captions, and images of each, of diversity
COLUMNS = (
    "A: class",
    "A: IS",
    "A: FD",
    "A: R-precision",
    "diversity",
    "B: class",
    "B: FD",
    "B: precision",
    "B: recall",
    "B: coverage",
)


def read_splits(path: Path, held_out: str, text: str | None, edge: int = EDGE) -> tuple[Split, Split]:
    """``train`` and the held-out split, classes from 0."""
    splits = [read_split(path, name, text, edge) for name in ("train", held_out)]
    known = splits[0].classes.unique()  # data sets may count from 1
    seen, unseen = (dataclasses.replace(split, classes=torch.searchsorted(known, split.classes)) for split in splits)
    return seen, unseen


def read_split(path: Path, name: str, text: str | None, edge: int) -> Split:
    """A split of a data set, its images' shorter side `edge` px, with the embeddings of its captions."""
    data = prepare(open_source(str(path)), name, edge)
    part = encoder_part(text) or {"name": "ngram"}
    encoder = registry.create("text", part["name"], **{key: value for key, value in part.items() if key != "name"})
    captions = data.flat_captions()
    encoder.fit(captions)
    table, first, rows = embed(captions, encoder), 0, []
    for own in data.captions:
        rows.append(table[first + torch.arange(KEPT) % len(own)])
        first += len(own)
    if data.labels is None:
        raise SystemExit(f"{path} has no labels, which both judges need.")
    return Split(data.images.permute(0, 3, 1, 2).contiguous(), data.captions, torch.stack(rows), data.labels)


def few(data: Path, count: int, out: Path) -> Path:
    """A folder with `count` images of the training split of a folder, evenly spaced over its rows."""
    folder = out / f"few-{count}" / "train"
    if not folder.exists():
        rows = (data / "train" / "metadata.jsonl").read_text().splitlines()
        chosen = [rows[number * len(rows) // count] for number in range(count)]
        folder.mkdir(parents=True)
        for row in chosen:
            shutil.copy(data / "train" / json.loads(row)["file_name"], folder)
        (folder / "metadata.jsonl").write_text("\n".join(chosen) + "\n")
    return folder.parent


def train(recipe: str, data: Path, args: argparse.Namespace, more: list[str]) -> Path:
    """The run of a recipe, trained unless it is there."""
    run: Path = args.out / recipe
    if not (run / "generator.safetensors").exists():
        command = [
            sys.executable,
            "-m",
            "stackflower",
            "train",
            "--recipe",
            recipe,
            "--out",
            str(run),
            "--data",
            str(data),
        ]
        command += ["--time-limit", f"{round(60 * args.minutes)}s", "--seed", str(args.seed), *more]
        subprocess.run(command, check=True)
    return run


def judged(run: Path, judges: Judges, captions: int) -> dict[str, Any]:
    """Every measure of a run: each of the first captions of every held-out image is generated once, and the measures averaged."""
    pipeline, held_out = Pipeline.from_run(run), judges.held_out
    of, found = torch.arange(len(held_out.images)), []
    for number in range(captions):
        texts = [own[number % len(own)] for own in held_out.captions]
        found.append(
            judges.score(torch.cat(list(pipeline.generate(texts, seed=number))).permute(0, 3, 1, 2), of, number)
        )
    mean = {name: sum(one[name] for one in found) / captions for name in found[0]}
    texts = [own[0] for own in held_out.captions[:: max(1, len(of) // DIVERSE)]]
    images = torch.cat(list(pipeline.generate(texts, per_caption=LATENTS, seed=captions)))
    metrics = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    seen = max(line["images"] for line in metrics)
    return {"images": seen, **mean, "diversity": judges.diversity(images.permute(0, 3, 1, 2), LATENTS)}


def copies(run: Path, count: int = 256) -> dict[str, Any]:
    """How many of `count` generated images lie nearer to a training image than 99 of 100 training images to another."""
    said = subprocess.run(
        [sys.executable, "-m", "stackflower", "report", str(run), "--nearest", str(count), "--json"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    found = json.loads(said)["nearest"][run.name]
    return {"nearest": min(found["distances"]), "limit": found["limit"], "copies": found["copies"], "of": count}


def table(scores: dict[str, dict[str, Any]], real: dict[str, float]) -> str:
    """As Markdown."""
    head = ["run", "images", *COLUMNS]
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    lines.append("| real, held out | | " + " | ".join(f"{real[c]:.3f}" if c in real else "" for c in COLUMNS) + " |")
    for name, found in scores.items():
        cells = [f"{found[c] / real['A: IS']:.0%} of real" if c == "A: IS" else f"{found[c]:.3g}" for c in COLUMNS]
        lines.append(f"| {name} | {found['images']:,} | {' | '.join(cells)} |")
    for name, found in scores.items():
        if "copies" in found:
            lines.append(
                f"\n{name}: {found['copies']['copies']} of {found['copies']['of']} images are nearer to a training image than "
                f"{found['copies']['limit']:.3f}; the nearest is at {found['copies']['nearest']:.3f}."
            )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with train/ and validation/")
    parser.add_argument("--split", default="validation", help="to judge on")
    parser.add_argument(
        "--text", help="text encoder of the runs and of judge A's captions, as --text of stackflower train"
    )
    parser.add_argument("--minutes", type=float, default=25.0)
    parser.add_argument("--recipes", nargs="*", default=RECIPES)
    parser.add_argument("--runs", nargs="*", type=Path, default=[], help="runs to judge in place of training recipes")
    parser.add_argument("--captions", type=int, default=2, help="captions of each held-out image")
    parser.add_argument("--few", type=int, help="images to train on")
    parser.add_argument("--out", type=Path, default=Path("runs/photographs"))
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    judge = judge_a(args.data, args.text, args.out / "judge-a.safetensors")
    judges = Judges(*read_splits(args.data, args.split, args.text), judge)
    real, file = judges.real(), args.out / "scores.json"
    scores: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    more = ["--text", args.text] if args.text else []
    data = few(args.data, args.few, args.out) if args.few else args.data
    for run in args.runs or (train(recipe, data, args, more) for recipe in args.recipes):
        if run.name not in scores:
            scores[run.name] = judged(run, judges, args.captions)
            if args.few:
                scores[run.name] |= {"copies": copies(run)}
            file.write_text(json.dumps(scores, indent=2))
        grid = args.out / f"{run.name}.png"
        if not grid.exists():
            sample = ["sample", str(run), *CAPTIONS, "--per-caption", "8", "--grid", "--out", str(grid.resolve())]
            subprocess.run([sys.executable, "-m", "stackflower", *sample], check=True)
        print(table(scores, real), flush=True)


if __name__ == "__main__":
    main()

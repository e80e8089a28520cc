"""Train recipes on photographs for the same time and score them on held-out captions with two judges.

    python benchmarks/photographs.py --data flowers --minutes 25
    python benchmarks/photographs.py --data flowers --runs runs/a runs/b      # score existing runs
    python benchmarks/photographs.py --data flowers --recipes photographs --minutes 15 --few 500 --out runs/few

``flowers`` is a folder with the splits ``train`` and ``validation``, with captions and labels. Settings were chosen on
the validation split; `--split` selects another. The judges are two networks that no run is trained against (see
`judges.py`). Judge A is trained first (half an hour on two cores) and kept.

Each run is trained alone, on all cores, by `stackflower train --time-limit`. The table, ``scores.json`` and a grid per
run, NAME.png, are written to `--out`. Finished results are kept, so the command can be repeated.

With `--few N`, runs are trained on N images, evenly spaced over the training split. The table then states how many
generated images are nearer to a training image than training images are to one another
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
from judges import EDGE, Judges, Split, load_judge_a

from stackflower import registry
from stackflower.data.opening import open_source
from stackflower.data.prepared import prepare
from stackflower.pipeline import Pipeline
from stackflower.runs.trained_text import find_text_encoder
from stackflower.text.cache import embed

RECIPES = ("quickstart", "photographs", "projected-gan-mini", "r3gan-mini", "df-gan-mini")
CAPTIONS = (
    "this flower has long yellow petals and a dark brown center",
    "a pink flower with many layers of ruffled petals",
    "white petals with a yellow center",
    "a purple flower with pointed petals",
    "a bright red flower with large rounded petals",
)
KEPT = 5  # captions per image that the judges use
DIVERSE, LATENTS = 100, 8  # captions, and images per caption, for diversity
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
    """Read ``train`` and the held-out split; classes are counted from 0."""
    splits = [read_split(path, name, text, edge) for name in ("train", held_out)]
    train_classes = splits[0].classes.unique()  # data sets may count classes from 1
    seen, unseen = (
        dataclasses.replace(split, classes=torch.searchsorted(train_classes, split.classes)) for split in splits
    )
    return seen, unseen


def read_split(path: Path, name: str, text: str | None, edge: int) -> Split:
    """Read a split with images of `edge` px and the embeddings of their captions."""
    data = prepare(open_source(str(path)), name, edge)
    part = find_text_encoder(text) or {"name": "ngram"}
    encoder = registry.create("text", part["name"], **{key: value for key, value in part.items() if key != "name"})
    captions = data.flatten_captions()
    encoder.fit(captions)
    embeddings, first, rows = embed(captions, encoder), 0, []
    for image_captions in data.captions:
        rows.append(embeddings[first + torch.arange(KEPT) % len(image_captions)])
        first += len(image_captions)
    if data.labels is None:
        raise SystemExit(f"{path} has no labels; both judges need them.")
    return Split(data.images.permute(0, 3, 1, 2).contiguous(), data.captions, torch.stack(rows), data.labels)


def copy_subset(data: Path, count: int, out: Path) -> Path:
    """Copy `count` images, evenly spaced over the rows of the training split, into a new folder."""
    folder = out / f"few-{count}" / "train"
    if not folder.exists():
        rows = (data / "train" / "metadata.jsonl").read_text().splitlines()
        chosen = [rows[number * len(rows) // count] for number in range(count)]
        folder.mkdir(parents=True)
        for row in chosen:
            shutil.copy(data / "train" / json.loads(row)["file_name"], folder)
        (folder / "metadata.jsonl").write_text("\n".join(chosen) + "\n")
    return folder.parent


def train(recipe: str, data: Path, args: argparse.Namespace, options: list[str]) -> Path:
    """Train a recipe unless its run exists."""
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
        command += ["--time-limit", f"{round(60 * args.minutes)}s", "--seed", str(args.seed), *options]
        subprocess.run(command, check=True)
    return run


def score_run(run: Path, judges: Judges, captions: int) -> dict[str, Any]:
    """Compute every measure of a run.

    One image is generated for each of the first `captions` captions of every held-out image. Measures are averaged over
    the captions.
    """
    pipeline, held_out = Pipeline.from_run(run), judges.held_out
    image_index, scores = torch.arange(len(held_out.images)), []
    for number in range(captions):
        texts = [image_captions[number % len(image_captions)] for image_captions in held_out.captions]
        scores.append(
            judges.score(
                torch.cat(list(pipeline.generate(texts, seed=number))).permute(0, 3, 1, 2), image_index, number
            )
        )
    mean = {name: sum(score[name] for score in scores) / captions for name in scores[0]}
    texts = [image_captions[0] for image_captions in held_out.captions[:: max(1, len(image_index) // DIVERSE)]]
    images = torch.cat(list(pipeline.generate(texts, per_caption=LATENTS, seed=captions)))
    metrics = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    images_seen = max(line["images"] for line in metrics)
    return {"images": images_seen, **mean, "diversity": judges.diversity(images.permute(0, 3, 1, 2), LATENTS)}


def count_copies(run: Path, count: int = 256) -> dict[str, Any]:
    """Count copies among `count` generated images.

    A copy is nearer to a training image than 99% of training images are to one another.
    """
    report = subprocess.run(
        [sys.executable, "-m", "stackflower", "report", str(run), "--nearest", str(count), "--json"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    nearest = json.loads(report)["nearest"][run.name]
    return {"nearest": min(nearest["distances"]), "limit": nearest["limit"], "copies": nearest["copies"], "of": count}


def format_table(scores: dict[str, dict[str, Any]], real_scores: dict[str, float]) -> str:
    """Format the scores as a Markdown table."""
    head = ["run", "images", *COLUMNS]
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    lines.append(
        "| real, held out | | "
        + " | ".join(f"{real_scores[c]:.3f}" if c in real_scores else "" for c in COLUMNS)
        + " |"
    )
    for name, values in scores.items():
        cells = [
            f"{values[c] / real_scores['A: IS']:.0%} of real" if c == "A: IS" else f"{values[c]:.3g}" for c in COLUMNS
        ]
        lines.append(f"| {name} | {values['images']:,} | {' | '.join(cells)} |")
    for name, values in scores.items():
        if "copies" in values:
            lines.append(
                f"\n{name}: {values['copies']['copies']} of {values['copies']['of']} images are nearer to a training "
                f"image than {values['copies']['limit']:.3f}; the smallest distance is "
                f"{values['copies']['nearest']:.3f}."
            )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with train/ and validation/")
    parser.add_argument("--split", default="validation", help="split to score on")
    parser.add_argument(
        "--text", help="text encoder of the runs and of judge A's captions, as --text in stackflower train"
    )
    parser.add_argument("--minutes", type=float, default=25.0)
    parser.add_argument("--recipes", nargs="*", default=RECIPES)
    parser.add_argument("--runs", nargs="*", type=Path, default=[], help="runs to score instead of training recipes")
    parser.add_argument("--captions", type=int, default=2, help="captions per held-out image")
    parser.add_argument("--few", type=int, help="number of images to train on")
    parser.add_argument("--out", type=Path, default=Path("runs/photographs"))
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    judge = load_judge_a(args.data, args.text, args.out / "judge-a.safetensors")
    judges = Judges(*read_splits(args.data, args.split, args.text), judge)
    real_scores, file = judges.real(), args.out / "scores.json"
    scores: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    options = ["--text", args.text] if args.text else []
    data = copy_subset(args.data, args.few, args.out) if args.few else args.data
    for run in args.runs or (train(recipe, data, args, options) for recipe in args.recipes):
        if run.name not in scores:
            scores[run.name] = score_run(run, judges, args.captions)
            if args.few:
                scores[run.name] |= {"copies": count_copies(run)}
            file.write_text(json.dumps(scores, indent=2))
        grid = args.out / f"{run.name}.png"
        if not grid.exists():
            sample = ["sample", str(run), *CAPTIONS, "--per-caption", "8", "--grid", "--out", str(grid.resolve())]
            subprocess.run([sys.executable, "-m", "stackflower", *sample], check=True)
        print(format_table(scores, real_scores), flush=True)


if __name__ == "__main__":
    main()

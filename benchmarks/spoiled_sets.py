"""What each score says of image sets that are spoiled on purpose: what it can tell, and what it misses.

    stackflower train-classifier --data flowers --text ngram --out judge.safetensors
    python benchmarks/spoiled_sets.py --data flowers --weights judge.safetensors --runs runs/photographs-1

For the first caption of every image of the held-out split, a set has a photograph of the training split: of the caption's class, taken at random
("copies of training images"), and that set blurred, with one image a class, with ten images in all, with the captions of other images, and with noise.
They are scored by `stackflower eval --images`, runs by `stackflower eval`, both against the held-out photographs.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.functional import gaussian_blur

from stackflower import evaluate
from stackflower.data.opening import open_source
from stackflower.data.prepared import prepare
from stackflower.utils.rng import seeded

SIZE = 64
COLUMNS = {
    "IS of real": "inception_score_share_of_real",
    "FD": "frechet_distance",
    "KD": "kernel_distance_mean",
    "precision": "precision",
    "recall": "recall",
    "density": "density",
    "coverage": "coverage",
    "cosine": "cosine_distance",
    "R-precision": "r_precision",
    "similarity": "text_similarity",
    "copies": "copies",
}


def spoiled(images: Tensor, own: Tensor, labels: Tensor, count: int) -> dict[str, Callable[[], Tensor]]:
    """Sets of `count` images (count, 3, R, R) by name, from training images (N, 3, R, R) of which `own` (count,) are of the captions' classes."""
    generator = seeded(0, 20)
    first = {label: place for place, label in reversed(list(enumerate(labels.tolist())))}
    one_a_class = torch.tensor([first[label] for label in labels[own].tolist()])
    moved = torch.randperm(count, generator=generator)
    return {
        "copies of training images": lambda: images[own],
        "blurred (σ 1.5 px)": lambda: gaussian_blur(images[own], [9, 9], [1.5, 1.5]),
        "one image a class": lambda: images[one_a_class],
        "ten images in all": lambda: images[own[:10]].repeat(count // 10 + 1, 1, 1, 1)[:count],
        "captions of other images": lambda: images[own][moved],
        "a tenth of the pixels noise": lambda: torch.where(
            torch.rand(count, 1, SIZE, SIZE, generator=generator) < 0.1,
            torch.randint(0, 256, (count, 3, SIZE, SIZE), dtype=torch.uint8, generator=generator),
            images[own],
        ),
    }


def write(images: Tensor, captions: list[str], folder: Path) -> None:
    """PNG files and a metadata.jsonl."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for number, (image, caption) in enumerate(zip(images, captions, strict=True)):
        Image.fromarray(image.permute(1, 2, 0).contiguous().numpy()).save(folder / f"{number:05d}.png")
        rows.append(json.dumps({"file_name": f"{number:05d}.png", "text": caption}))
    (folder / "metadata.jsonl").write_text("\n".join(rows) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--split", default="validation")
    parser.add_argument("--weights", required=True, help="a classifier with a caption head")
    parser.add_argument("--runs", nargs="*", default=[])
    parser.add_argument("--out", type=Path, default=Path("runs/spoiled-sets"))
    args = parser.parse_args()
    source = open_source(args.data)
    train, held_out = (prepare(source, split, 76) for split in ("train", args.split))
    assert train.labels is not None and held_out.labels is not None, "the sets are made by class"
    generator, own = seeded(0, 21), []
    for label in held_out.labels.tolist():
        members = (train.labels == label).nonzero().flatten()
        own.append(int(members[torch.randint(len(members), (1,), generator=generator)]))
    captions = [texts[0] for texts in held_out.captions]
    found: dict[str, dict[str, Any]] = {}
    common: dict[str, Any] = {
        "data": args.data,
        "split": args.split,
        "extractor": "domain",
        "options": {"weights": args.weights},
        "metrics": ("is", "fid", "kid", "prdc", "cosine", "r-precision", "similarity", "nearest"),
    }
    for name, make in spoiled(train.centre(SIZE), torch.tensor(own), train.labels, len(own)).items():
        folder = args.out / name.split(" (")[0].replace(" ", "-")
        write(make(), captions, folder)
        found[name] = evaluate(folder, resolution=SIZE, **common)
    for run in args.runs:
        found[f"run {Path(run).name}"] = evaluate(run, **common)
    (args.out / "scores.json").write_text(json.dumps(found, indent=2))
    print(f"| set | {' | '.join(COLUMNS)} |", f"|{'---|' * (len(COLUMNS) + 1)}", sep="\n")
    real = next(iter(found.values()))
    beside = {
        "cosine": "",
        "R-precision": real["real_r_precision"],
        "similarity": real["real_text_similarity"],
        "copies": real["real_copies"],
    }
    cells = [f"{beside[name]:.3g}" if isinstance(beside.get(name), float) else "" for name in COLUMNS]
    print(f"| held-out photographs themselves | {' | '.join(cells)} |")
    for name, scores in found.items():
        print(f"| {name} | {' | '.join(f'{scores[key]:.3g}' if key in scores else '' for key in COLUMNS.values())} |")


if __name__ == "__main__":
    main()

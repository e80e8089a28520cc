"""Score image sets that are degraded on purpose: what does each score detect, and what does it miss?

    stackflower train-classifier --data flowers --text ngram --out judge.safetensors
    python benchmarks/spoiled_sets.py --data flowers --weights judge.safetensors --runs runs/photographs-1

The first set, "copies of training images", has one photograph for the first caption of every held-out image. It is
drawn at random from the caption's class in the training split. The other sets are derived from the first: blurred, one
image per class, ten images in all, captions of other images, and noise.

The sets are scored by `stackflower eval --images`, and runs by `stackflower eval`, both against the held-out
photographs.
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
from stackflower.utils.rng import create_rng

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


def make_degraded_sets(
    images: Tensor, class_images: Tensor, labels: Tensor, count: int
) -> dict[str, Callable[[], Tensor]]:
    """Make the degraded sets from training images.

    Args:
        images: training images, uint8 (N, 3, R, R).
        class_images: (count,) index of a training image of each caption's class.
        labels: (N,) classes of the training images.
        count: images per set.

    Returns:
        The name of each set, with a function that makes its images, uint8 (count, 3, R, R).
    """
    generator = create_rng(0, 20)
    first_image = {label: place for place, label in reversed(list(enumerate(labels.tolist())))}
    one_per_class = torch.tensor([first_image[label] for label in labels[class_images].tolist()])
    permutation = torch.randperm(count, generator=generator)
    return {
        "copies of training images": lambda: images[class_images],
        "blurred (σ 1.5 px)": lambda: gaussian_blur(images[class_images], [9, 9], [1.5, 1.5]),
        "one image per class": lambda: images[one_per_class],
        "ten images in all": lambda: images[class_images[:10]].repeat(count // 10 + 1, 1, 1, 1)[:count],
        "captions of other images": lambda: images[class_images][permutation],
        "noise in a tenth of the pixels": lambda: torch.where(
            torch.rand(count, 1, SIZE, SIZE, generator=generator) < 0.1,
            torch.randint(0, 256, (count, 3, SIZE, SIZE), dtype=torch.uint8, generator=generator),
            images[class_images],
        ),
    }


def write_set(images: Tensor, captions: list[str], folder: Path) -> None:
    """Write images and captions as PNG files with a metadata.jsonl."""
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
    parser.add_argument("--weights", required=True, help="file of a classifier with a caption head")
    parser.add_argument("--runs", nargs="*", default=[])
    parser.add_argument("--out", type=Path, default=Path("runs/spoiled-sets"))
    args = parser.parse_args()
    source = open_source(args.data)
    train, held_out = (prepare(source, split, 76) for split in ("train", args.split))
    assert train.labels is not None and held_out.labels is not None, (
        "the sets are made by class, so the data need labels"
    )
    generator, class_images = create_rng(0, 21), []
    for label in held_out.labels.tolist():
        members = (train.labels == label).nonzero().flatten()
        class_images.append(int(members[torch.randint(len(members), (1,), generator=generator)]))
    captions = [texts[0] for texts in held_out.captions]
    results: dict[str, dict[str, Any]] = {}
    common: dict[str, Any] = {
        "data": args.data,
        "split": args.split,
        "extractor": "domain",
        "options": {"weights": args.weights},
        "metrics": ("is", "fid", "kid", "prdc", "cosine", "r-precision", "similarity", "nearest"),
    }
    for name, make in make_degraded_sets(
        train.crop_centre(SIZE), torch.tensor(class_images), train.labels, len(class_images)
    ).items():
        folder = args.out / name.split(" (")[0].replace(" ", "-")
        write_set(make(), captions, folder)
        results[name] = evaluate(folder, resolution=SIZE, **common)
    for run in args.runs:
        results[f"run {Path(run).name}"] = evaluate(run, **common)
    (args.out / "scores.json").write_text(json.dumps(results, indent=2))
    print(f"| set | {' | '.join(COLUMNS)} |", f"|{'---|' * (len(COLUMNS) + 1)}", sep="\n")
    first_result = next(iter(results.values()))
    real_scores = {
        "cosine": "",
        "R-precision": first_result["real_r_precision"],
        "similarity": first_result["real_text_similarity"],
        "copies": first_result["real_copies"],
    }
    cells = [f"{real_scores[name]:.3g}" if isinstance(real_scores.get(name), float) else "" for name in COLUMNS]
    print(f"| held-out photographs | {' | '.join(cells)} |")
    for name, scores in results.items():
        print(f"| {name} | {' | '.join(f'{scores[key]:.3g}' if key in scores else '' for key in COLUMNS.values())} |")


if __name__ == "__main__":
    main()

"""Compare a later stage on photographs with its enlarged Stage I, at 128 px.

    python benchmarks/later_stage.py runs/flowers-256 --data flowers --text all-MiniLM-L6-v2

``--data`` is a folder or shards with the splits ``train`` and ``validation``, with captions and labels, of at least
144 px. Neither stage is trained against the network that scores them: judge A of `judges.py` at 128 px. It is trained
first and kept in `--out`.

The run generates one image per caption of the held-out images (`--captions` per image). Its Stage-I part is enlarged by
bicubic interpolation. The script prints the Fréchet distance, Inception Score, class agreement and R-precision of both,
and of the held-out photographs. Sharpness is the mean absolute Laplacian, relative to that of the photographs.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
import torch.nn.functional as F
from judges import Split, classify, extract_features, load_judge_a, measure_r_precision, shuffle_rows
from photographs import read_splits
from torch import Tensor

from stackflower.data.images import to_uint8
from stackflower.evaluation.classifier.network import DomainClassifier
from stackflower.evaluation.metrics.frechet_distance import frechet_distance
from stackflower.evaluation.metrics.inception_score import inception_score
from stackflower.pipeline import Pipeline
from stackflower.utils.pixels import scale_pixels

SIZE, EDGE = 128, 144


def resize(images: Tensor, size: int) -> Tensor:
    """Resize images uint8 (N, 3, R, R) to `size` px by bicubic interpolation, with antialiasing when shrinking."""
    x = scale_pixels(images)
    parts = [F.interpolate(part, size=(size, size), mode="bicubic", antialias=True) for part in x.split(64)]
    return torch.cat([to_uint8(part.clamp(-1, 1)) for part in parts]).permute(0, 3, 1, 2)


def measure_sharpness(images: Tensor, size: int) -> float:
    """Measure the mean absolute Laplacian of the luminance at `size` px."""
    luminance = resize(images, size).float().mean(1, keepdim=True)
    kernel = torch.tensor([[0.0, 1, 0], [1, -4, 1], [0, 1, 0]])[None, None]
    return float(F.conv2d(luminance, kernel).abs().mean())


def compute_scores(
    judge: DomainClassifier, images: Tensor, held_out: Split, number: int, real: Tensor
) -> dict[str, float]:
    """Score images generated for one caption of every held-out image.

    Args:
        judge: judge A.
        images: uint8 (N, 3, R, R), in the order of the held-out images.
        held_out: the held-out split.
        number: number of the caption among the captions of a held-out image.
        real: judge A's features (N, F) of the held-out images.
    """
    features = extract_features(judge.body, images, SIZE)
    logits = classify(judge, features)
    measures = {
        "class": float((logits.argmax(1) == held_out.classes).float().mean()),
        "IS": inception_score(shuffle_rows(logits), 10)[0],
        "R-precision": measure_r_precision(judge, features, held_out, torch.arange(len(features)), number),
    }
    return measures | {"FD": frechet_distance(features, real)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, nargs="+", help="runs of a later stage")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--split", default="validation")
    parser.add_argument("--text", help="text encoder of the judge's captions, as --text in stackflower train")
    parser.add_argument("--captions", type=int, default=2, help="captions per held-out image")
    parser.add_argument("--out", type=Path, default=Path("runs/later-stage"))
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    _, held_out = read_splits(args.data, args.split, args.text, EDGE)
    judge = load_judge_a(args.data, args.text, args.out / f"judge-a-{SIZE}.safetensors", SIZE)
    real = extract_features(judge.body, held_out.images, SIZE)
    results = {"real, held out": compute_scores(judge, held_out.images, held_out, 0, real) | {"sharpness": 1.0}}
    reference = measure_sharpness(held_out.images, SIZE)
    for run in args.run:
        pipeline, rows = Pipeline.from_run(run), []
        for number in range(args.captions):
            texts = [captions[number % len(captions)] for captions in held_out.captions]
            both = torch.cat(list(pipeline.generate(texts, seed=number, side_by_side=True))).permute(0, 3, 1, 2)
            size = pipeline.resolution
            repetition = size // pipeline.stage.all_resolutions[0]  # side by side, Stage I's pixels are repeated
            stage1, last_stage = both[..., ::repetition, :size:repetition], both[..., -size:]
            for name, images in ((f"{run.name}, Stage I enlarged", resize(stage1, size)), (run.name, last_stage)):
                rows.append((name, compute_scores(judge, images, held_out, number, real)))
                rows[-1][1]["sharpness"] = measure_sharpness(images, SIZE) / reference
        for name in dict.fromkeys(name for name, _ in rows):
            repeats = [scores for row_name, scores in rows if row_name == name]
            results[name] = {
                measure: sum(scores[measure] for scores in repeats) / len(repeats) for measure in repeats[0]
            }
    (args.out / "scores.json").write_text(json.dumps(results, indent=2))
    measures = list(next(iter(results.values())))
    print(f"| | {' | '.join(measures)} |", "|---" * (len(measures) + 1) + "|", sep="\n")
    for name, row in results.items():
        print(f"| {name} | {' | '.join(f'{row[measure]:.3g}' for measure in measures)} |")


if __name__ == "__main__":
    main()

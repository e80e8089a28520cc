"""Whether a Stage-II run draws more like the real pictures than its Stage-I's, enlarged.

    python benchmarks/sharpness.py runs/stage2

The Fréchet distance over the domain classifier's features, at Stage-II's resolution, of: what Stage-II draws; what the stage
below draws for the same captions and noise, enlarged by bicubic interpolation; and real pictures made small and enlarged in the
same way, the best that enlarging could do. Beside each, the mean length of the pixels' gradient, relative to the real pictures'.
"""

from __future__ import annotations

import argparse
import json

import torch
import torch.nn.functional as F
from torch import Tensor

from stackflower import build
from stackflower.commands.evaluate import choose_extractor
from stackflower.data.images import to_uint8
from stackflower.evaluation.metrics.frechet_distance import frechet_distance
from stackflower.evaluation.reference import Real
from stackflower.pipeline import Pipeline
from stackflower.runs.folder import RunFolder
from stackflower.utils.progress import silent


def enlarged(images: Tensor, size: int) -> Tensor:
    """(N, 3, r, r) in [-1, 1] by bicubic interpolation."""
    return F.interpolate(images, size=size, mode="bicubic", antialias=False).clamp(-1, 1)


def edges(images: Tensor) -> float:
    """Mean length of the gradient of (N, 3, R, R) uint8 pictures, in levels."""
    values = images.float()
    across, down = values.diff(dim=3)[:, :, :-1], values.diff(dim=2)[..., :-1]
    return float((across.square() + down.square()).sum(1).sqrt().mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--extractor")
    parser.add_argument("--weights")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    config = RunFolder(asked.run).config()
    pipeline = Pipeline.from_run(asked.run)
    if pipeline.stage.lower is None:
        raise SystemExit(f"{asked.run} is a stage over nothing; name a run of --stage 2.")
    source, size = build.build_source(config), pipeline.resolution
    extractor = choose_extractor(asked.extractor, asked.weights, source, size, silent)
    real = Real.open(source, size, build.load_size(config, pipeline.stage, source), silent)
    pictures, numbers = real.chosen(asked.samples, asked.seed)
    captions = [real.data.captions[picture][number] for picture, number in zip(pictures, numbers, strict=True)]
    shown = real.data.centre(size, torch.tensor(pictures))
    wanted = pipeline.encoder(captions).to(pipeline.device)
    noise = pipeline._noise(asked.seed, len(captions), None).to(pipeline.device)
    drawn, below = [], []
    with torch.inference_mode():
        for first in range(0, len(captions), 50):
            found = pipeline.stage(wanted[first : first + 50], noise[first : first + 50])
            drawn.append(to_uint8(found.images[-1]))
            below.append(to_uint8(enlarged(found.lower[-1].float(), size)))
    low = pipeline.stage.lower.resolutions[-1]
    small = F.interpolate(shown.float().div(127.5).sub(1), size=low, mode="bicubic", antialias=True)
    sets = {
        "stage above": torch.cat(drawn).permute(0, 3, 1, 2),
        "stage below, bicubic": torch.cat(below).permute(0, 3, 1, 2),
        "real, made small and enlarged": to_uint8(enlarged(small, size)).permute(0, 3, 1, 2),
    }
    theirs = extractor(shown).features
    result = {
        name: {
            "frechet_distance": round(frechet_distance(extractor(images).features, theirs), 3),
            "edges_of_real": round(edges(images) / edges(shown), 3),
        }
        for name, images in sets.items()
    }
    print(json.dumps({"resolutions": [low, size], "samples": len(captions), **result}, indent=2))


if __name__ == "__main__":
    main()

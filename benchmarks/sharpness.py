"""Compare the images of a Stage-II run with those of its Stage-I, upsampled.

    python benchmarks/sharpness.py runs/stage2

The Fréchet distance over the domain classifier's features, at Stage-II's resolution, of: Stage-II's images; the images of the previous
stage for the same captions and noise, upsampled by bicubic interpolation; and real images downsampled and upsampled in the same way, the
best possible result of upsampling. For each, also the mean gradient magnitude of the pixels, relative to that of the real images.
"""

from __future__ import annotations

import argparse
import json

import torch
import torch.nn.functional as F
from torch import Tensor

from stackflower import build
from stackflower.data.images import to_uint8
from stackflower.evaluation.metrics.frechet_distance import frechet_distance
from stackflower.evaluation.opening import choose_extractor
from stackflower.evaluation.reference import Reference
from stackflower.pipeline import Noise, Pipeline
from stackflower.runs.folder import Run


def upsampled(images: Tensor, size: int) -> Tensor:
    """(N, 3, r, r) in [-1, 1] to (N, 3, size, size) by bicubic interpolation."""
    return F.interpolate(images, size=size, mode="bicubic", antialias=False).clamp(-1, 1)


def edges(images: Tensor) -> float:
    """Mean gradient magnitude of uint8 images (N, 3, R, R), in levels of 255."""
    values = images.float()
    across, down = values.diff(dim=3)[:, :, :-1], values.diff(dim=2)[..., :-1]
    return float((across.square() + down.square()).sum(1).sqrt().mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--split", default="validation")
    parser.add_argument("--extractor")
    parser.add_argument("--weights")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    config = Run(args.run).config()
    pipeline = Pipeline.from_run(args.run)
    if pipeline.stage.previous is None:
        raise SystemExit(f"{args.run} has no previous stage; name a run of --stage 2.")
    source, size = build.build_source(config), pipeline.resolution
    extractor = choose_extractor(args.extractor, {"weights": args.weights} if args.weights else {}, source, size)
    real = Reference.open(source, args.split, size, build.load_size(config, pipeline.stage, source))
    indices, numbers = real.choose(args.samples, args.seed)
    captions = [real.data.captions[index][number] for index, number in zip(indices, numbers, strict=True)]
    real_images = real.data.centre(size, torch.tensor(indices))
    embedding = pipeline.encoder(captions).to(pipeline.device)
    noise = Noise(pipeline.stage, args.seed, None).rows(0, len(captions)).to(pipeline.device)
    stage_images, previous_images = [], []
    with torch.inference_mode():
        for first in range(0, len(captions), 50):
            generated = pipeline.stage(embedding[first : first + 50], noise[first : first + 50])
            stage_images.append(to_uint8(generated.images[-1]))
            previous_images.append(to_uint8(upsampled(generated.previous[-1].float(), size)))
    low = pipeline.stage.previous.resolutions[-1]
    small = F.interpolate(real_images.float().div(127.5).sub(1), size=low, mode="bicubic", antialias=True)
    sets = {
        "stage": torch.cat(stage_images).permute(0, 3, 1, 2),
        "previous stage, bicubic": torch.cat(previous_images).permute(0, 3, 1, 2),
        "real, downsampled and upsampled": to_uint8(upsampled(small, size)).permute(0, 3, 1, 2),
    }
    real_features = extractor(real_images).features
    result = {
        name: {
            "frechet_distance": round(frechet_distance(extractor(images).features, real_features), 3),
            "edges_of_real": round(edges(images) / edges(real_images), 3),
        }
        for name, images in sets.items()
    }
    print(json.dumps({"resolutions": [low, size], "samples": len(captions), **result}, indent=2))


if __name__ == "__main__":
    main()

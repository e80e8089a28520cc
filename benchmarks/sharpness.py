"""Compare the images of a Stage-II run with the upsampled images of its Stage-I.

    python benchmarks/sharpness.py runs/stage2

The script prints the Fréchet distance over the domain classifier's features, at Stage-II's resolution, of:

- Stage-II's images;
- the images of the previous stage for the same captions and noise, upsampled by bicubic interpolation;
- real images, downsampled and upsampled in the same way: the best possible result of upsampling.

It also prints the mean gradient magnitude of the pixels of each set, relative to that of the real images.
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
from stackflower.evaluation.opening import create_extractor
from stackflower.evaluation.reference import Reference
from stackflower.pipeline import Pipeline
from stackflower.runs.folder import Run
from stackflower.stages.noise import NoiseTable
from stackflower.utils.pixels import scale_pixels


def upsample(images: Tensor, size: int) -> Tensor:
    """Upsample images (N, 3, r, r) in [-1, 1] to (N, 3, size, size) by bicubic interpolation."""
    return F.interpolate(images, size=size, mode="bicubic", antialias=False).clamp(-1, 1)


def measure_edges(images: Tensor) -> float:
    """Measure the mean gradient magnitude of images uint8 (N, 3, R, R), in pixel levels from 0 to 255."""
    levels = images.float()
    horizontal, vertical = levels.diff(dim=3)[:, :, :-1], levels.diff(dim=2)[..., :-1]
    return float((horizontal.square() + vertical.square()).sum(1).sqrt().mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--split", default="validation")
    parser.add_argument("--extractor")
    parser.add_argument("--weights")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    config = Run(args.run).read_config()
    pipeline = Pipeline.from_run(args.run)
    if pipeline.stage.previous is None:
        raise SystemExit(f"{args.run} has no previous stage. Give a run trained with --stage 2.")
    source, size = build.build_source(config), pipeline.resolution
    extractor = create_extractor(args.extractor, {"weights": args.weights} if args.weights else {}, source, size)
    reference = Reference.open(source, args.split, size, build.compute_load_size(config, pipeline.stage, source))
    indices, caption_numbers = reference.choose(args.samples, args.seed)
    captions = [reference.data.captions[index][number] for index, number in zip(indices, caption_numbers, strict=True)]
    real_images = reference.data.crop_centre(size, torch.tensor(indices))
    embedding = pipeline.encoder(captions).to(pipeline.device)
    noise = NoiseTable(pipeline.stage, args.seed, None).get_rows(0, len(captions)).to(pipeline.device)
    stage_images, previous_images = [], []
    with torch.inference_mode():
        for first in range(0, len(captions), 50):
            generated = pipeline.stage(embedding[first : first + 50], noise[first : first + 50])
            stage_images.append(to_uint8(generated.images[-1]))
            previous_images.append(to_uint8(upsample(generated.previous[-1].float(), size)))
    previous_size = pipeline.stage.previous.resolutions[-1]
    downsampled = F.interpolate(scale_pixels(real_images), size=previous_size, mode="bicubic", antialias=True)
    sets = {
        "stage": torch.cat(stage_images).permute(0, 3, 1, 2),
        "previous stage, bicubic": torch.cat(previous_images).permute(0, 3, 1, 2),
        "real, downsampled and upsampled": to_uint8(upsample(downsampled, size)).permute(0, 3, 1, 2),
    }
    real_features = extractor(real_images).features
    result = {
        name: {
            "frechet_distance": round(frechet_distance(extractor(images).features, real_features), 3),
            "edges_of_real": round(measure_edges(images) / measure_edges(real_images), 3),
        }
        for name, images in sets.items()
    }
    print(json.dumps({"resolutions": [previous_size, size], "samples": len(captions), **result}, indent=2))


if __name__ == "__main__":
    main()

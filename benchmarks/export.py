"""Export every recipe to ONNX: seconds, megabytes, milliseconds per image, and the difference from PyTorch.

    pip install -e ".[onnx]" onnxruntime
    python benchmarks/export.py                     # all recipes, with new weights
    python benchmarks/export.py --run runs/quickstart-1

Differences are the largest over all images of one and of five captions: of float32 weights in the range [-1, 1], of
float16 weights in levels of 255.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import onnxruntime
import torch
from torch import Tensor, nn

from stackflower import registry
from stackflower.build import load_run
from stackflower.models.onnx import export_onnx
from stackflower.recipes.load import describe_recipes, has_later_stage, load_recipe
from stackflower.runs.folder import Run
from stackflower.stages.base import Stage

TEXT_DIM = 1024
REPEATS = 5


def build(name: str, stage: int) -> Stage:
    """Build a stage of a recipe with new weights."""
    recipe = load_recipe(name, stage)
    previous = build(name, stage - 1) if stage > 1 else None
    parts = {kind: {k: v for k, v in recipe[kind].items() if k != "name"} for kind in ("conditioning", "generator")}
    conditioning = registry.create(
        "conditioning", recipe["conditioning"]["name"], **parts["conditioning"], text_dim=TEXT_DIM
    )
    context = {} if previous is None else {"previous_resolution": previous.resolutions[-1]}
    generator = registry.create(
        "generator", recipe["generator"]["name"], **parts["generator"], condition_dim=conditioning.dim, **context
    )
    network = Stage(conditioning, generator, previous)
    _set_statistics(network)
    return network.eval()


def _set_statistics(stage: Stage) -> None:
    """Set the statistics of the batch norms, which training would average, to those of one batch."""
    for layer in stage.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = 1.0
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        stage.train()(torch.randn(8, TEXT_DIM, generator=generator), stage.draw_noise(8, generator))


def list_stages(run: str | None, recipe: str | None) -> Iterator[tuple[str, Stage, int]]:
    """List the stages to export, with the size of their text embeddings."""
    if run is not None:
        stage, encoder, _ = load_run(Run(run), False, None)
        yield run, stage.eval(), encoder.dim
        return
    torch.manual_seed(0)
    for name in [recipe] if recipe else sorted(describe_recipes()):
        for number in (1, 2) if has_later_stage(name) else (1,):
            yield f"{name}, stage {number}", build(name, number), TEXT_DIM


def compare(path: Path, stage: Stage, text_dim: int) -> tuple[float, float]:
    """Return the largest difference of a file's images from PyTorch's, and the milliseconds per image."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    difference, seconds = 0.0, []
    for count in (1, 5):
        generator = torch.Generator().manual_seed(count)
        embedding, noise = torch.randn(count, text_dim, generator=generator), stage.draw_noise(count, generator)
        with torch.no_grad():
            generated = stage(embedding, noise)
        expected: tuple[Tensor, ...] = (*generated.previous, *generated.images)
        for _ in range(REPEATS if count == 1 else 1):
            start = time.perf_counter()
            images = session.run(None, {"embedding": embedding.numpy(), "noise": noise.numpy()})
            seconds += [time.perf_counter() - start] * (count == 1)
        for image, reference in zip(images, expected, strict=True):
            difference = max(difference, float((torch.from_numpy(image) - reference).abs().max()))
    return difference, 1000 * sorted(seconds)[len(seconds) // 2]


def main() -> None:
    """Print one row per stage."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", help="export this run instead of the recipes")
    parser.add_argument("--recipe", help="export this recipe only")
    arguments = parser.parse_args()
    print("| stage | export, s | float32, MB | float16, MB | ms per image | difference | difference of float16 |")
    print("|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for name, stage, text_dim in list_stages(arguments.run, arguments.recipe):
            sizes, results = [], []
            for half in (True, False):
                path = Path(folder) / "model.onnx"
                start = time.perf_counter()
                export_onnx(stage, text_dim, path, half=half)
                seconds = time.perf_counter() - start
                sizes.append(path.stat().st_size / 1e6)
                results.append(compare(path, stage, text_dim))
            (half_difference, _), (difference, milliseconds) = results
            print(
                f"| {name} | {seconds:.1f} | {sizes[1]:.1f} | {sizes[0]:.1f} | {milliseconds:.1f} | {difference:.0e} "
                f"| {half_difference * 127.5:.1f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()

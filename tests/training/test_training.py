"""A training from its first step to what it leaves, with every part."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from conftest import TINY, settings
from running import lines
from safetensors.torch import load_file

from stackflower import registry
from stackflower.runs.folder import Run
from stackflower.stages.base import Refiner


def test_a_run_leaves_samples_metrics_checkpoints_and_a_model(trained: Path) -> None:
    assert {path.name for path in trained.iterdir()} >= {
        "config.json",
        "metrics.jsonl",
        "samples",
        "checkpoints",
        "generator.safetensors",
    }
    assert [path.name for path in Run(trained).list_checkpoints()][-1] == "images-000000096"
    assert (trained / "samples" / "images-000000096.png").exists()
    (entry,) = lines(trained)[-1:]
    assert entry["images"] == 96 and {"discriminator-16/real", "generator/kl", "images_per_second"} <= entry.keys()
    assert not [path for path in trained.rglob(".*") if path.name != ".lock"]


@pytest.mark.parametrize(
    ("kind", "name"), [(kind, name) for kind in ("discriminator", "generator") for name in registry.list_parts(kind)]
)
def test_every_part_trains_resumes_and_draws_with_its_flag_alone(
    stackflower, tmp_path: Path, projected_flags: list[str], kind: str, name: str
) -> None:
    """With nothing else given it trains, is saved, goes on, and is drawn with."""
    over: list[object] = []
    if issubclass(registry.get(kind, name), Refiner):
        stackflower("train", "--out", "below", "--images", 16, *TINY)
        over = ["--stage", 2, "--below", "below", *settings("generator.resolution=32")]
    tree = settings("generator.resolution=64", "generator.scales=3") if name in ("tree", "attention") else []
    features = projected_flags if name == "projected" else []
    rest = [*over, f"--{kind}", name, *(pair for pair in TINY), *over, *tree, *features]
    stackflower("train", "--out", "run", "--images", 16, *rest)
    stackflower("train", "--resume", "run", "--images", 24)
    assert (tmp_path / "run" / "samples" / "images-000000024.png").exists()
    stackflower("sample", "run", "a red flower", "--out", "red.png")
    stackflower("train", *rest, "--images", 16, "--dry-run")


@pytest.mark.skipif(not (shutil.which("g++") or shutil.which("clang++")), reason="no C++ compiler")
@pytest.mark.parametrize("discriminator", ["matching", "projected"])
def test_compiled_networks_train_as_eager_ones(
    stackflower, tmp_path: Path, projected_flags: list[str], discriminator: str
) -> None:
    arguments = [*TINY, "--images", 16, "--penalty", "r1=1", *(projected_flags if discriminator == "projected" else [])]
    stackflower("train", "--out", "eager", *arguments)
    stackflower("train", "--out", "compiled", "--compile", *arguments)
    for name in ("optimizer-generator", "optimizer-discriminator"):
        # After one step, Adam's first moment is the gradient. The weights move by its sign, which turns with the last
        # bit near zero.
        first = (
            tmp_path / run / "checkpoints" / "images-000000008" / f"{name}.safetensors" for run in ("eager", "compiled")
        )
        one, two = map(load_file, first)
        gradients = [key for key in one if key.endswith("exp_avg")]
        scale = max(float(one[key].abs().max()) for key in gradients)
        assert scale > 0 and one.keys() == two.keys()
        assert all((one[key] - two[key]).abs().max() < 1e-4 * scale for key in gradients)


def test_a_trees_terms_are_told_with_their_resolution(stackflower) -> None:
    tree = ["--generator", "tree", *settings("generator.scales=2", "generator.resolution=32")]
    output = stackflower("train", "--out", "run", "--images", 8, *TINY, *tree).output
    assert "discriminator-16: " in output and "discriminator-32: " in output
    assert " adversarial-16 " in output and " adversarial-32 " in output
    one = stackflower("train", "--out", "one", "--images", 8, *TINY).output
    assert "discriminator: " in one and "generator: adversarial " in one

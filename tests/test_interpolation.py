"""Images on the way from one caption or noise to another."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from stackflower import registry
from stackflower.errors import ConfigError
from stackflower.pipeline import Pipeline
from stackflower.stages.base import Stage
from stackflower.stages.noise import NoiseTable


def stage(noise: str = "normal") -> Stage:
    conditioning = registry.create("conditioning", "augmentation", text_dim=5, dim=3)
    generator = registry.create(
        "generator", "stage1", condition_dim=3, resolution=16, channels=4, noise_dim=6, noise=noise
    )
    return Stage(conditioning, generator).eval()


@pytest.mark.parametrize("noise", ["normal", "uniform"])
def test_noise_between_two_keeps_its_length_or_its_range(noise: str) -> None:
    part, generator = stage(noise), torch.Generator().manual_seed(0)
    one, other = part.draw_noise(2, generator)
    path = part.interpolate_noise(one, other, torch.linspace(0, 1, 5))
    assert torch.allclose(path[0], one) and torch.allclose(path[-1], other, atol=1e-6)
    conditioning, own = path[:, :-6], path[:, -6:]
    assert torch.allclose(conditioning[2], (one + other)[:-6] / 2**0.5)
    middle = (one + other)[-6:] / (2 if noise == "uniform" else 2**0.5)
    assert torch.allclose(own[2], middle, atol=1e-6)
    if noise == "uniform":
        assert own.abs().max() <= 1


def test_the_ends_are_the_captions_own_images(trained: Path) -> None:
    pipeline = Pipeline.from_run(trained)
    captions = ["a red flower", "a blue flower", "white petals"]
    found = torch.cat(list(pipeline.interpolate(captions, 5, per_caption=2, seed=3, batch_size=2)))
    assert found.shape == (10, 16, 16, 3)
    noise = NoiseTable(pipeline.stage, 3, None)
    for row in range(2):
        for step, caption in ((0, captions[0]), (2, captions[1]), (4, captions[2])):
            with torch.inference_mode():
                image = pipeline.stage(pipeline.encoder([caption]), noise.get_rows(row, row + 1)).images[-1]
            expected = image.add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)[0]
            difference = found[row * 5 + step].int() - expected.int()
            assert difference.abs().max() <= 1, (row, step)
    assert not torch.equal(found[0], found[5]), "every row has noise of its own"
    again = torch.cat(list(pipeline.interpolate(captions[:1], 3, seed=3)))
    assert (again[0].int() - found[0].int()).abs().max() <= 1 and not torch.equal(again[0], again[2])


def test_a_row_leads_from_one_seed_to_another(trained: Path) -> None:
    pipeline = Pipeline.from_run(trained)
    for captions in (["a red flower"], ["a red flower", "a blue flower"]):
        row = torch.cat(list(pipeline.interpolate(captions, 3, per_caption=2, seed=3, end_seed=8)))
        for seed, caption, places in ((3, captions[0], (0, 3)), (8, captions[-1], (2, 5))):
            expected = torch.cat(list(pipeline.generate([caption], per_caption=2, seed=seed)))
            for place, image in zip(places, expected, strict=True):
                assert (row[place].int() - image.int()).abs().max() <= 1
        assert not torch.equal(row[1], row[0]) and not torch.equal(row[1], row[2])
    with pytest.raises(ConfigError, match="`end_seed` must be an integer"):
        next(pipeline.interpolate(["a red flower"], 3, end_seed=1.5))  # type: ignore[arg-type]


def test_sample_interpolate_draws_between_captions(stackflower, trained: Path, tmp_path: Path) -> None:
    stackflower(
        "sample", trained, "a red flower", "a blue flower", "--interpolate", 4, "--per-caption", 2, "--out", "way.png"
    )
    with Image.open(tmp_path / "way.png") as image:
        assert image.width >= 4 * 16
    for flags, said in (
        (["--best-of", 2], "--best-of can't be combined with --interpolate"),
        (["--interpolate", 1], "2"),
        (["--per-caption", 6000], "images fit into a grid"),
    ):
        assert said in stackflower("sample", trained, "a red flower", "--interpolate", 4, *flags, code=2).output

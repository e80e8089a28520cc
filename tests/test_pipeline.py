"""Sampling from Python and choosing the best of several images."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from stackflower.data.images import crop_border, load_square, sharpen
from stackflower.errors import ConfigError
from stackflower.pipeline import Pipeline


def test_memory_does_not_grow_with_the_images_of_a_caption(trained: Path) -> None:
    """The first images of a hundred million are there at once, and the same as of a few."""
    import itertools as it

    from stackflower import Pipeline

    pipeline = Pipeline.from_run(trained, "cpu")
    few = list(pipeline.generate(["a red flower", "a blue flower"], per_caption=70, batch_size=32))
    many = list(it.islice(pipeline.generate(["a red flower", "a blue flower"], per_caption=10**8, batch_size=32), 2))
    assert all((one == other).all() for one, other in zip(few[:2], many, strict=True))
    middle = pipeline.generate(["a red flower", "a blue flower"], per_caption=10**8, part=(1, 2), batch_size=1)
    assert next(middle).shape[0] == 1


def test_the_pipeline_draws_seeded_images_from_python(trained: Path) -> None:
    from stackflower import Pipeline

    pictures = Pipeline.from_run(trained)("a red flower", per_caption=3, seed=0)
    assert len(pictures) == 3 and all(
        isinstance(picture, Image.Image) and picture.size == (16, 16) for picture in pictures
    )
    again = Pipeline.from_run(trained)(["a red flower"], per_caption=3, seed=0)
    assert all(one.tobytes() == two.tobytes() for one, two in zip(pictures, again, strict=True))
    assert len(Pipeline.from_run(trained)("a red flower", truncation=0.5)) == 1
    assert len(Pipeline.from_run(trained)("a red flower", truncation=0.01)) == 1
    for wrong in (0.001, float("nan")):
        with pytest.raises(ConfigError, match=r"at least 0\.01"):
            Pipeline.from_run(trained)("a red flower", truncation=wrong)


@pytest.mark.parametrize("count", ["per_caption", "batch_size", "best_of"])
def test_a_pipeline_refuses_counts_of_none(trained: Path, count: str) -> None:
    with pytest.raises(ConfigError, match=f"`{count}` must be at least 1, got 0"):
        Pipeline.from_run(trained, with_discriminator=True)("a red flower", **{count: 0})


@pytest.mark.parametrize("name", ["seed", "per_caption", "batch_size", "best_of"])
@pytest.mark.parametrize("value", ["x", 1.5, None])
def test_a_pipeline_refuses_what_is_not_an_integer(trained: Path, name: str, value: object) -> None:
    with pytest.raises(ConfigError, match=f"`{name}` must be an integer, got {value!r}"):
        Pipeline.from_run(trained)("a red flower", **{name: value})


def test_an_integer_of_numpy_is_the_same_seed(trained: Path) -> None:
    pipeline = Pipeline.from_run(trained)
    one, other = (pipeline("a red flower", seed=seed)[0] for seed in (3, np.int64(3)))
    assert one.tobytes() == other.tobytes()


def test_the_discriminator_chooses_the_best_of_several(trained: Path) -> None:
    pipeline = Pipeline.from_run(trained, "cpu", with_discriminator=True)
    captions = ["a red flower", "a blue flower"]
    seen: list[torch.Tensor] = []
    judge = pipeline.adversary.discriminator  # type: ignore[union-attr]
    forward = judge.forward

    def noted(images, texts):  # type: ignore[no-untyped-def]
        found = forward(images, texts)
        seen.append(found[0].match)
        return found

    judge.forward = noted  # type: ignore[method-assign]
    (best,) = pipeline.generate(captions, per_caption=2, best_of=4)
    (every,) = pipeline.generate(captions, per_caption=8)  # the same noise, one after the other
    scores = torch.cat(seen)
    assert best.shape[0] == 4 and every.shape[0] == 16
    chosen = scores.reshape(4, 4).argmax(1)
    assert len(chosen.unique()) > 1
    for row in range(4):
        assert torch.equal(best[row], every[4 * row + chosen[row]])
    one_by_one = torch.cat(list(pipeline.generate(captions, per_caption=2, best_of=4, batch_size=4)))
    assert (one_by_one.int() - best.int()).abs().max() <= 1


def test_choosing_needs_a_checkpoint(stackflower, trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained, tmp_path / "bare", ignore=shutil.ignore_patterns("checkpoints"))
    stackflower("sample", "bare", "a red flower", "--out", "one.png")
    assert "no complete checkpoint" in stackflower("sample", "bare", "a red flower", "--best-of", 3, code=2).output
    assert "16 px only" in stackflower("sample", "bare", "a red flower", "--side-by-side", code=2).output


def test_images_can_be_sharpened_and_their_borders_cropped(stackflower, trained: Path, tmp_path: Path) -> None:
    stackflower("sample", trained, "a red flower", "--out", "plain.png")
    stackflower("sample", trained, "a red flower", "--sharpen", 3, "--out", "sharp.png")
    plain, sharp = (np.asarray(Image.open(tmp_path / f"{name}.png")) for name in ("plain", "sharp"))
    assert np.array_equal(sharp, sharpen(plain, 3.0)) and not np.array_equal(sharp, plain)
    assert np.array_equal(sharpen(plain, 1.0), plain)
    picture = np.zeros((40, 50, 3), np.uint8)
    picture[10:30, 5:45] = np.random.default_rng(0).integers(60, 255, (20, 40, 3))
    framed = Image.fromarray(picture)
    assert np.array_equal(np.asarray(crop_border(framed)), picture[10:30, 5:45])
    framed.save(tmp_path / "framed.png")
    Image.fromarray(picture[10:30, 5:45]).save(tmp_path / "bare.png")
    assert np.array_equal(load_square(tmp_path / "framed.png", 16, trim=True), load_square(tmp_path / "bare.png", 16))
    assert not np.array_equal(load_square(tmp_path / "framed.png", 16), load_square(tmp_path / "bare.png", 16))
    assert (
        "--trim-border applies to the images of a folder"
        in stackflower("eval", trained, "--trim-border", code=2).output
    )
    assert (
        "--resolution applies to images that do not come from a run"
        in stackflower("eval", trained, "--resolution", 32, code=2).output
    )
    white = Image.new("RGB", (9, 7), "white")
    assert crop_border(white).size == (9, 7)

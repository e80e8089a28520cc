"""The grids of a training: the captions on them, and the trackers that get them."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import FEW, TINY, TINY_NETWORKS, settings
from PIL import Image

import stackflower as sf
from stackflower.errors import ConfigError
from stackflower.pipeline import Pipeline
from stackflower.training.logger import RunLogger


@pytest.mark.parametrize("text", ["ngram", "rnn"])
def test_own_captions_are_drawn_first(stackflower, tmp_path: Path, text: str) -> None:
    flags = [*TINY_NETWORKS, *FEW, *settings("text.dim=16"), "--text", text, "--images", 16]
    stackflower("train", "--out", "plain", *flags)
    own = ["--caption", "a  red flower", "--caption", "a blue one"]
    stackflower("train", "--out", "own", *flags, *own)
    plain, captions = (sf.Run(tmp_path / name).read_captions() for name in ("plain", "own"))
    assert captions == ["a red flower", "a blue one", *plain] and len(plain) == 8
    grids = [sorted((tmp_path / name / "samples").glob("*.png"))[-1] for name in ("plain", "own")]
    heights = [Image.open(grid).height for grid in grids]
    assert heights[1] > heights[0] * 1.1  # two more rows
    weights = [(tmp_path / name / "generator.safetensors").read_bytes() for name in ("plain", "own")]
    assert weights[0] == weights[1]  # the grids change nothing else
    stackflower("train", "--resume", "own", "--images", 24, "--caption", "a lily")
    assert sf.Run(tmp_path / "own").read_captions()[0] == "a lily"


def test_captions_that_can_not_be_drawn_are_refused_first(stackflower, tmp_path: Path) -> None:
    assert "Caption 1 is empty" in stackflower("train", *TINY, "--images", 8, "--caption", " ", code=2).output
    with pytest.raises(ConfigError, match=r"output\.captions"):
        sf.train(images=8, captions=[3], out=tmp_path / "run")  # type: ignore[list-item]
    assert not (tmp_path / "run").exists()


def test_trackers_get_the_grid(trained: Path, tmp_path: Path) -> None:
    pipeline, sent = Pipeline.from_run(trained, "cpu"), []

    class Tracker:
        def __init__(self, name: str) -> None:
            self.name = name

        def log_images(self, values: dict[str, np.ndarray], step: int, **options: str) -> None:
            sent.append((self.name, values["samples"].shape, values["samples"].dtype, step, options))

    trackers = [Tracker("tensorboard"), Tracker("wandb"), SimpleNamespace(name="mlflow")]
    accelerator = SimpleNamespace(is_main_process=True, device=torch.device("cpu"), trackers=trackers)
    captions = ["a red flower", "a blue flower"]
    run_logger = RunLogger(sf.Run(tmp_path), accelerator, captions, pipeline.encoder(captions), 0)  # type: ignore[arg-type]
    run_logger.save_grid(pipeline.stage, 640)
    (grid,) = (tmp_path / "samples").glob("*.png")
    shape = (1, *np.asarray(Image.open(grid)).shape)
    assert sent == [
        ("tensorboard", shape, np.uint8, 640, {"dataformats": "NHWC"}),
        ("wandb", shape, np.uint8, 640, {}),
    ]


@pytest.mark.extras
def test_tensorboard_shows_the_grid(stackflower, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    stackflower("train", "--out", "run", "--images", 16, "--report-to", "tensorboard", *TINY)
    events = [EventAccumulator(str(path.parent)) for path in tmp_path.rglob("events.out.tfevents.*")]
    for each in events:
        each.Reload()
    images = [image for each in events if "samples" in each.Tags()["images"] for image in each.Images("samples")]
    assert images and max(image.step for image in images) == 16

"""The Python API: what the command line does, without touching the process it runs in."""

from __future__ import annotations

import doctest
import importlib
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

import stackflower as sf
from stackflower import registry
from stackflower.errors import ComponentError, ConfigError, ModelError
from stackflower.training.callbacks import TrainingProgress
from stackflower.training.stopping import SIGNALS

TINY = {
    "generator.resolution": 16,
    "generator.channels": 4,
    "discriminator.channels": 4,
    "conditioning.dim": 8,
    "train.load_size": 64,
    "data.count": 48,
    "data.validation": 16,
    "data.test": 16,
    "text.dim": 64,
}


class Count(sf.Callback):
    """Counts what happens."""

    def __init__(self) -> None:
        self.steps, self.logs, self.checkpoints, self.ends = 0, 0, [], []

    def on_step(self, progress: TrainingProgress) -> None:
        self.steps += 1
        assert progress.images == 8 * progress.step

    def on_log(self, progress: TrainingProgress, measures: dict[str, float]) -> None:
        self.logs += 1
        assert "lr/generator" in measures

    def on_checkpoint(self, progress: TrainingProgress, path: Path) -> None:
        assert (path / "state.json").is_file()
        self.checkpoints.append(progress.images)

    def on_end(self, progress: TrainingProgress, stopped: str | None) -> None:
        self.ends.append((progress.images, stopped))


class StopAt(sf.Callback):
    """Stops the training after some images."""

    def __init__(self, images: int):
        self.images = images

    def on_step(self, progress: TrainingProgress) -> None:
        if progress.images >= self.images:
            progress.stop("the callback")


def host_state() -> tuple[object, ...]:
    """What a host process would not like to find changed."""
    handlers = tuple(signal.getsignal(number) for number in SIGNALS)
    loggers = logging.getLogger("stackflower")
    return (
        sys.stdout,
        sys.stderr,
        handlers,
        dict(os.environ),
        torch.get_rng_state().tolist(),
        loggers.level,
        list(loggers.handlers),
        torch.backends.cudnn.benchmark,
        torch.get_num_threads(),
    )


def test_a_notebook_trains_stops_resumes_samples_and_evaluates(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    before, count = host_state(), Count()
    options = {"batch_size": 8, "mixed_precision": "no", "settings": TINY, "progress_bar": False}
    run = sf.train("quickstart", images=64, out="run", callbacks=[count, StopAt(32)], **options)
    assert run.images == 32 and count.steps == 4 and count.ends == [(32, "the callback")]
    assert count.checkpoints[-1] == 32

    run = sf.train(resume=run, callbacks=count, progress_bar=False)
    assert run.images == 64 and count.steps == 8 and count.ends[-1] == (64, None) and count.logs

    pipeline = sf.Pipeline.from_run(run)
    images = pipeline(["a red flower", "a blue flower"], per_caption=3, seed=0)
    assert len(images) == 6 and images[0].size == (16, 16)
    assert sf.grid(images, columns=3).size == (48, 32)
    assert pipeline.to("cpu") is pipeline

    scores = sf.evaluate(run, metrics=("fid",), samples=16, progress_bar=False)
    assert scores["frechet_distance"] > 0 and scores["protocol"]["images"] == 16
    assert host_state() == before
    assert capsys.readouterr() == ("", "")


def test_the_api_trains_what_the_command_line_trains(stackflower, tmp_path: Path) -> None:
    flags = [f"--set={name}={value}" for name, value in TINY.items()]
    stackflower("train", "--images", 32, "--batch-size", 8, "--mixed-precision", "no", "--out", "cli", *flags)
    sf.train(images=32, batch_size=8, mixed_precision="no", out="api", settings=TINY, progress_bar=False)
    one, other = (Path(name, "generator.safetensors").read_bytes() for name in ("cli", "api"))
    assert one == other


def test_parts_are_named_or_given_with_their_options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = sf.train(
        images=8,
        batch_size=8,
        mixed_precision="no",
        discriminator={"name": "projection", "channels": 4},
        penalty={"r1": {"weight": 0.5}},
        data={"name": "synthetic-flowers", "count": 24, "validation": 8, "test": 8},
        settings={key: value for key, value in TINY.items() if not key.startswith(("data", "discriminator"))},
        progress_bar=False,
    )
    config = run.read_config()
    assert config.discriminator.name == "projection" and config.discriminator.options["channels"] == 4
    assert {part.name: part.options["weight"] for part in config.penalties}["r1"] == 0.5


def test_mistakes_name_parameters_and_come_in_one_list() -> None:
    with pytest.raises(ConfigError) as raised:
        sf.train(discriminator="matchin", settings={"generator.chanels": 3, "train.images": -1})
    assert len(raised.value.problems) >= 3 and "--" not in str(raised.value)
    with pytest.raises(ConfigError, match="`columns` must be at least 1, got 0"):
        sf.grid([Image.new("RGB", (8, 8))], columns=0)
    with pytest.raises(ComponentError, match="Unknown discriminator 'matchin'"):
        sf.create("discriminator", "matchin")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"lr": -1}, "`lr=-1`: it should be greater than 0."),
        ({"batch_size": 0}, "`batch_size=0`: it should be greater than 0."),
        ({"images": "many"}, "`images=many`: it should be a valid integer"),
        ({"time_limit": -5}, "`time_limit=-5`: it should be greater than 0."),
        ({"seed": -1}, "`seed=-1`: it should be greater than or equal to 0."),
        ({"mixed_precision": "fp8"}, "`mixed_precision=fp8`: allowed are auto, no, bf16, fp16."),
        ({"batch_size": 8, "settings": {"train.batch_size": 0}}, "`train.batch_size=0`: it should be greater than 0."),
        ({"settings": {"generator.style": 3}}, "`generator.style=3`: it should be a valid boolean (part 'stage1')."),
        ({"penalty": {"r1": {"weight": -1}}}, "`penalties.r1.weight=-1`: it should be greater than or equal to 0"),
    ],
)
def test_a_wrong_value_names_the_parameter_that_gave_it(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        sf.train("quickstart", **arguments)
    assert [problem for problem in raised.value.problems if problem.startswith(message)], raised.value.problems
    assert len(raised.value.problems) == 1


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"generator": {"resolution": 16}}, "`generator` = {'resolution': 16}: give a name, or a dict with a name"),
        ({"data": {"count": 48}}, "`data` = {'count': 48}: give a name"),
        ({"discriminator": 3}, "`discriminator` = 3: give a name"),
        ({"penalty": ["r1"]}, r"`penalty` = \['r1'\]: give a name, or a dict of names to options"),
    ],
)
def test_parts_of_another_form_are_refused_in_a_sentence(parts: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        sf.train(**parts)


def test_a_subject_that_does_not_exist_is_named() -> None:
    with pytest.raises(ModelError, match="nowhere is not a folder, a shipped model or an id on the Hugging Face Hub"):
        sf.evaluate("nowhere", metrics=("is",))


def test_interpolate_names_its_parameter_and_the_command_its_flag(trained: Path, stackflower) -> None:
    pipeline = sf.Pipeline.from_run(trained)
    with pytest.raises(ConfigError, match="`steps` must be at least 2, got 1"):
        next(pipeline.interpolate(["a red flower"], 1))
    shown = stackflower("sample", trained, "a red flower", "--interpolate", 3, "--best-of", 2, code=2).output
    assert "--best-of can't be combined with --interpolate" in shown


def test_create_builds_a_part_from_its_name() -> None:
    part = sf.create("discriminator", "projection", text_dim=384, resolution=64)
    assert part.trunk(torch.zeros(2, 3, 64, 64)) is not None
    assert "projection" in sf.list_parts("discriminator")


def test_create_names_missing_arguments_and_unknown_kinds() -> None:
    with pytest.raises(ComponentError) as raised:
        sf.create("discriminator", "projection", chanels=3)
    assert str(raised.value).splitlines() == [
        "discriminator 'projection' has no option 'chanels'. Did you mean 'channels'? Allowed: channels, spectral.",
        "discriminator 'projection' can't be built without text_dim and resolution: pass text_dim=…, resolution=… to "
        "`create`.",
    ]
    with pytest.raises(ComponentError, match="Unknown kind of part 'judge'"):
        sf.create("judge", "projection")


@pytest.mark.parametrize(
    "package", ["objectives", "penalties", "augmentations", "features", "stages", "text", "data", "evaluation"]
)
def test_kinds_re_export_their_parts_lazily(package: str) -> None:
    code = (
        f"import sys, stackflower.{package} as package; assert 'torch' not in sys.modules; "
        "names = dir(package); assert names; [getattr(package, name) for name in names]"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(AttributeError, match="has no attribute 'Nothing'"):
        getattr(importlib.import_module(f"stackflower.{package}"), "Nothing")  # noqa: B009


@pytest.mark.parametrize(
    "module",
    [
        "stackflower",
        "stackflower.registry",
        "stackflower.data.images",
        "stackflower.stages.base",
        "stackflower.objectives.base",
        "stackflower.penalties.base",
        "stackflower.text.base",
        "stackflower.data.source",
        "stackflower.runs.folder",
    ],
)
def test_examples_of_docstrings_run(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_registered", dict(registry._registered))  # an example registers a part
    monkeypatch.setattr(registry, "_classes", dict(registry._classes))
    results = doctest.testmod(importlib.import_module(module), optionflags=doctest.NORMALIZE_WHITESPACE)
    assert results.attempted and not results.failed


def test_importing_the_package_is_fast_and_loads_no_torch() -> None:
    code = "import sys, stackflower; stackflower.__version__; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_host_with_its_own_logging_hears_the_training(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with caplog.at_level(logging.INFO, logger="stackflower"):
        sf.train(images=8, batch_size=8, mixed_precision="no", settings=TINY, progress_bar=False)
    assert any("Recipe quickstart" in record.getMessage() for record in caplog.records)

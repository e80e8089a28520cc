"""Values of requests, example captions, files and messages of the demo; without gradio."""

from __future__ import annotations

import re
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image

from stackflower.commands.demo import format_sample_command
from stackflower.demo import files, tabs, values
from stackflower.demo.messages import spell
from stackflower.demo.models import DemoModel, Models, open_model
from stackflower.demo.requests import DrawRequest, read_between_request, read_draw_request
from stackflower.errors import ConfigError, ModelError
from stackflower.pipeline import Pipeline
from stackflower.runs.folder import Run


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"caption": ""}, "“Caption” is empty"),
        ({"caption": " \n\t"}, "“Caption” is empty"),
        ({"caption": None}, "“Caption” must be text, got nothing"),
        ({"caption": ["a red flower"]}, "“Caption” must be text, got ['a red flower']"),
        ({"caption": "a" * 100_000}, "“Caption” has 100,000 characters; at most 10,000 are allowed"),
        ({"caption": "a " * 1_001}, "“Caption” has 1,001 words; at most 1,000 are allowed"),
        ({"images": 65}, "“Images” must be an integer from 1 to 64, got 65"),
        ({"images": 0}, "“Images” must be an integer from 1 to 64, got 0"),
        ({"images": 2.5}, "“Images” must be an integer"),
        ({"images": True}, "“Images” must be an integer"),
        ({"images": "8"}, "“Images” must be an integer from 1 to 64, got '8'"),
        ({"seed": -1}, "“Seed” must be an integer from 0"),
        ({"seed": None}, "“Seed” must be an integer from 0 to 9,007,199,254,740,991, got nothing"),
        ({"truncation": float("nan")}, "“Truncation” must be a number from 0 to 3"),
        ({"truncation": 4}, "“Truncation” must be a number from 0 to 3"),
        ({"best_of": 17}, "“Best of” must be an integer from 1 to 16, got 17"),
        ({"side_by_side": "yes"}, "“All stages side by side” must be true or false, got 'yes'"),
    ],
)
def test_a_bad_value_gets_a_sentence_that_names_its_control(changed: dict[str, Any], message: str) -> None:
    good = {
        "model": "m",
        "caption": "a red flower",
        "images": 8.0,
        "seed": 0,
        "truncation": 0,
        "best_of": 1,
        "side_by_side": False,
    }
    assert read_draw_request(**good) == DrawRequest("m", "a red flower", 8, 0, None, 1, False)
    with pytest.raises(ConfigError) as error:
        read_draw_request(**{**good, **changed})
    assert message in spell(str(error.value))


def test_something_has_to_change_between_the_ends() -> None:
    rest = (24, 0, "GIF")
    for captions, seeds in ((("a", ""), (0, "")), (("a", "a"), (3, 3)), (("a", None), (0, None))):
        with pytest.raises(ConfigError, match="Nothing changes"):
            read_between_request("m", *captions, *seeds, *rest)
    assert read_between_request("m", "a", "", 0, " 7 ", *rest).end_seed == 7
    assert read_between_request("m", "a", " ", 0, "7", *rest).captions == ["a"]
    with pytest.raises(ConfigError, match="`start_caption` is empty"):
        read_between_request("m", "", "b", 0, "", *rest)
    assert read_between_request("m", "a", "b", 0, "", *rest).captions == ["a", "b"]
    for end_seed in ("seven", "-1", "9" * 30, 1.5):
        with pytest.raises(ConfigError, match="`end_seed` must be an integer"):
            read_between_request("m", "a", "b", 0, end_seed, *rest)
    with pytest.raises(ConfigError, match="`frames` must be an integer from 2 to 64, got 65"):
        read_between_request("m", "a", "b", 0, "", 65, 0, "GIF")
    with pytest.raises(ConfigError, match="`animation` must be one of GIF, WebP, got 'MP4'"):
        read_between_request("m", "a", "b", 0, "", 24, 0, "MP4")


def test_a_new_tab_is_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The example of the page on the demo is a tab."""
    (block, *_) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "demo.md").read_text(encoding="utf-8"), re.DOTALL)
    (tmp_path / "names_of_this_test.py").write_text(block, encoding="utf-8")
    monkeypatch.setattr(tabs, "__path__", [*tabs.__path__, str(tmp_path)])
    assert [tab.title for tab in tabs.list_tabs()] == ["Draw", "Between", "Compare", "Names"]
    del sys.modules["stackflower.demo.tabs.names_of_this_test"]


def test_truncation_zero_is_off() -> None:
    assert values.read_truncation(0) is None and values.read_truncation(0.5) == 0.5


def test_the_command_is_quoted_for_a_shell() -> None:
    request = DrawRequest("runs/my run", "it's a <b>red</b> $flower", 8, 3, 0.5, 4, True)
    assert format_sample_command(request) == (
        "stackflower sample 'runs/my run' 'it'\"'\"'s a <b>red</b> $flower' --per-caption 8 --seed 3 --truncation 0.5 "
        "--best-of 4 --side-by-side"
    )
    dashed = DrawRequest("m", "--out", 1, 0, None, 1, False)
    assert format_sample_command(dashed) == "stackflower sample --per-caption 1 --seed 0 -- m --out"


def test_models_are_opened_once_and_the_oldest_is_dropped() -> None:
    opened = []

    def open_by_name(name: str) -> DemoModel:
        opened.append(name)
        return DemoModel(name, SimpleNamespace(), [])  # type: ignore[arg-type]

    models = Models(["a/x", "b/x", "c", "d", "e", "a/x"], open_by_name)
    assert models.choices == [("a/x", "a/x"), ("b/x", "b/x"), ("c", "c"), ("d", "d"), ("e", "e")]
    for name in ("a/x", "a/x", "b/x", "c", "d", "a/x", "e", "b/x"):
        assert models.run(models.get, name).name == name
    assert opened == ["a/x", "b/x", "c", "d", "e", "b/x"]
    with pytest.raises(ConfigError, match="`model` must be one of a/x, b/x, c, d, e, got '/etc'"):
        models.run(models.get, "/etc")


def test_a_model_opens_with_or_without_its_discriminator(trained: Path, tmp_path: Path) -> None:
    assert open_model(str(trained)).best_of_problem == ""
    for name in ("config.json", "generator.safetensors"):
        (tmp_path / name).write_bytes((trained / name).read_bytes())
    model = open_model(str(tmp_path))
    assert "no discriminator" in model.best_of_problem
    assert model.describe().startswith("16 px · ")
    with pytest.raises(ModelError):
        open_model(str(tmp_path / "nowhere"))


def test_examples_are_captions_of_the_model(trained: Path, tmp_path: Path) -> None:
    captions = Run(trained).read_captions()
    found = open_model(str(trained)).captions
    assert len(found) == 6 and set(found) <= set(captions)
    Pipeline.from_run(trained, "cpu").save_pretrained(tmp_path / "m", captions=["x" * 91, "a lily", "a rose"])
    model = open_model(str(tmp_path / "m"))
    assert model.captions == ["a lily", "a rose", "x" * 91] and "no discriminator" in model.best_of_problem
    assert open_model("flowers").captions


def test_images_carry_the_command(tmp_path: Path) -> None:
    images = [Image.new("RGB", (8, 8), color) for color in ("red", "blue", "green")]
    command = "stackflower sample m 'eine größere 花'"
    paths = files.write_images(images, tmp_path, "stem", command)
    with Image.open(paths[1]) as image:
        assert image.getpixel((0, 0)) == (0, 0, 255) and image.info["Comment"] == command
    with zipfile.ZipFile(files.write_archive(paths, tmp_path, "stem", command)) as archive:
        assert archive.namelist() == ["stem-00.png", "stem-01.png", "stem-02.png", "command.txt"]
        assert archive.read("command.txt").decode() == command + "\n"


@pytest.mark.parametrize("kind", files.ANIMATIONS)
def test_an_animation_goes_there_and_back(tmp_path: Path, kind: str) -> None:
    images = [Image.new("RGB", (16, 16), (50 * number, 0, 200)) for number in range(5)]
    with Image.open(files.write_animation(images, tmp_path, "film", kind)) as film:
        assert film.format == kind.upper() and film.size == (256, 256)
        assert film.n_frames == 8 and film.info["loop"] == 0  # type: ignore[attr-defined]
        reds = []
        for number in range(8):
            film.seek(number)
            reds.append(film.convert("RGB").getpixel((128, 128))[0])  # type: ignore[index]
    assert np.abs(np.subtract(reds, (0, 50, 100, 150, 200, 150, 100, 50))).max() <= 8

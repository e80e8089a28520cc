"""Reports of runs: curves, images, the nearest training images."""

from __future__ import annotations

import base64
import io
import json
import math
import re
import shutil
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch
from conftest import TINY_NETWORKS
from PIL import Image

from stackflower.data import images
from stackflower.data.images import open_image
from stackflower.errors import DataError
from stackflower.evaluation.nearest import find_nearest
from stackflower.reports import charts
from stackflower.reports.gallery import read_grids
from stackflower.runs.folder import Run


@pytest.mark.extras
def test_a_report_of_a_run_shows_its_curves_and_images(stackflower, trained: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    shutil.copytree(trained, tmp_path / "a <run>")
    output = stackflower("report", "a <run>").output
    assert "report.html" in output
    text = (tmp_path / "a <run>" / "report.html").read_text()
    ElementTree.fromstring(text[text.index("<svg") : text.index("</svg>") + 6])
    assert "96 images" in text and "discriminator-16" in text and "a &lt;run&gt;" in text
    assert not re.search(r"(src|href)=.(?!data:image/)[^#]", text.partition("<svg")[0]), "everything is in the file"
    (tmp_path / "a <run>" / "metrics.jsonl").write_text("")
    assert "has no measures yet" in stackflower("report", "a <run>", code=2).output


def test_a_report_shows_several_runs_side_by_side(stackflower, trained: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    for name in ("a", "b"):
        shutil.copytree(trained, tmp_path / name)
        shutil.rmtree(tmp_path / name / "scores", ignore_errors=True)
    scores = {"frechet_distance": 3.25, "caption_accuracy": {"colour": 0.5}, "metrics": ["fid"], "protocol": PROTOCOL}
    for name, value in (("a", 3.25), ("b", 7.5)):
        (tmp_path / name / "scores").mkdir()
        text = json.dumps({**scores, "frechet_distance": value})
        (tmp_path / name / "scores" / "test.json").write_text(text)
    (tmp_path / "b" / "scores" / "damaged.json").write_text("{")
    output = stackflower("report", "a", "b").output
    assert output.strip() == "report.html"
    text = (tmp_path / "report.html").read_text()
    assert (
        "<td>frechet distance</td>" in text
        and ">3.25<" in text
        and ">7.5<" in text
        and "caption accuracy: colour" in text
    )
    assert "damaged.json" in text and "a: real" in text and "b: real" in text
    other = {**scores, "protocol": {**PROTOCOL, "seed": 1}}
    (tmp_path / "b" / "scores" / "test.json").write_text(json.dumps(other))
    stackflower("report", "a", "b", "--out", "other.html")
    assert (tmp_path / "other.html").read_text().count("<summary>Protocol") == 2, (
        "scores of two protocols are two tables"
    )
    assert "is given twice" in stackflower("report", "a", "a", code=2).output
    assert "9 runs given; a report compares at most 8" in stackflower("report", *["a"] * 9, code=2).output


PROTOCOL = {"extractor": "domain", "split": "test", "images": 16, "seed": 0, "weights_sha256": "0123456789abcdef"}


def test_a_report_of_a_run_without_its_data_or_model_says_so(stackflower, trained: Path, tmp_path: Path) -> None:
    """What can be shown is shown, and why the rest can't be."""
    pytest.importorskip("matplotlib")
    shutil.copytree(trained, tmp_path / "run")
    (tmp_path / "run" / "generator.safetensors").unlink()
    (tmp_path / "run" / "samples" / "images-000000096.png").write_bytes(b"damaged")
    stackflower("report", "run")
    text = (tmp_path / "run" / "report.html").read_text()
    assert "generator.safetensors is missing" in text and "discriminator-16" in text
    stackflower("data", "make", "synthetic-flowers", "--out", "d", "--count", 16, "--validation", 8, "--test", 8)
    stackflower("train", "--data", "d", "--recipe", "quickstart", "--images", 16, "--out", "own", *TINY_NETWORKS)
    shutil.rmtree(tmp_path / "d")
    stackflower("report", "own")
    assert "does not exist" in (tmp_path / "own" / "report.html").read_text()


def test_a_report_shows_the_nearest_training_images(stackflower, trained: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    shutil.copytree(trained, tmp_path / "run")
    found = json.loads(stackflower("report", "run", "--nearest", 3, "--json").stdout)["nearest"]["run"]
    assert len(found["captions"]) == len(found["distances"]) == 3 and 0 <= found["copies"] <= 3 and found["limit"] > 0
    text = (tmp_path / "run" / "report.html").read_text()
    encoded = re.search(r'src="data:image/png;base64,([^"]+)"', text.partition("Nearest training images")[2])
    assert encoded and Image.open(io.BytesIO(base64.b64decode(encoded[1]))).size[0] > 3 * 16


def test_copies_are_found_and_others_are_not() -> None:
    generator = torch.Generator().manual_seed(0)
    training = torch.rand(400, 8, generator=generator)
    training[1] = training[0]  # an image that is there twice sets no limit
    generated = torch.cat([training[5:7] + 1e-4, torch.rand(20, 8, generator=generator)])
    found = find_nearest(generated, training[None])
    assert found.index[:2].tolist() == [5, 6] and found.copies[:2].all() and not found.copies[2:].any()
    table = torch.cdist(training, training) + torch.diag(torch.full((400,), math.inf))
    closest = table.min(1).values
    assert found.limit == pytest.approx(float(closest[closest > 0].quantile(0.01)), rel=1e-4)
    both = find_nearest(
        generated.flip(1), torch.stack([training, training.flip(1)])
    )  # another view of each, as a mirror image is
    assert both.index[:2].tolist() == [5, 6] and both.copies[:2].all() and not both.copies[2:].any()
    assert both.limit == find_nearest(generated, torch.stack([training, training.flip(1)])).limit <= found.limit


def test_a_report_without_its_library_names_the_extra(stackflower, trained: Path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert 'pip install "stackflower[report]"' in stackflower("report", trained, code=2).output


def test_curves_of_runs_with_odd_names_are_drawn() -> None:
    pytest.importorskip("matplotlib")
    curve = {"lr": {"generator": [(8.0, 1.0), (16.0, 0.5)]}}
    svg = charts.plot({r"$\\foo$": curve, "a_$b^^$": curve, "_c": curve})
    assert all(name in svg for name in ("foo", "b^^", "_c: generator")) and charts.plot({"a": {}}) == ""


def test_curves_are_grouped_and_thinned() -> None:
    rows = [{"images": 8, "discriminator-16/real": 0.5, "lr/generator": 1e-3, "images_per_second": 9.0, "step": 1}]
    found = charts.collect_curves([*rows, {"images": 16, "discriminator-16/real": math.nan, "lr/generator": None}])
    assert found == {
        "discriminator-16": {"real": [(8, 0.5)]},
        "lr": {"generator": [(8, 1e-3)]},
        "speed": {"images per second": [(8, 9.0)]},
    }
    thin = charts.average_points([(x, 2.0 * x) for x in range(10_000)])
    assert len(thin) <= charts.MAX_POINTS and all(y == pytest.approx(2 * x) for x, y in thin)


def test_grids_of_a_run_that_would_do_harm_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run_ghostscript(*_: object, **__: object) -> None:
        raise AssertionError("Ghostscript would run")

    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", run_ghostscript)
    run = Run(tmp_path)
    run.samples.mkdir()
    for number, side in ((1, 10), (2, 40)):
        Image.new("RGB", (side, side)).save(run.samples / f"images-{number:09d}.png")
    Image.new("RGB", (10, 10)).save(run.samples / "images-000000003.png", format="EPS")
    assert [picture.text for picture in read_grids(run)] == ["1 images", "2 images"]
    monkeypatch.setattr(images, "MAX_PIXELS", 1000)
    assert [picture.text for picture in read_grids(run)] == ["1 images"]
    with (
        pytest.raises(DataError, match="it has 40×40 pixels, and the limit is 1,000"),
        open_image(run.samples / "images-000000002.png"),
    ):
        pass

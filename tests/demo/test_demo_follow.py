"""Following a training: its files are read as they grow, and shown in a browser."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from conftest import find_free_port

from stackflower.demo import follow
from stackflower.runs.folder import Run


def row(images: int, **values: Any) -> dict[str, Any]:
    return {"images": images, "share": images / 1000, "seconds": images / 100, "images_per_second": 100.0, **values}


def append(run: Run, *rows: dict[str, Any], end: str = "\n") -> None:
    with run.metrics_file.open("a") as file:
        file.write("\n".join(map(json.dumps, rows)) + end)


def test_only_new_lines_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(tmp_path)
    reader = follow.MetricsReader(run)
    reader.update()
    assert reader.version == 0 and reader.summarise() == {"state": "waiting", "images": 0, "share": 0.0}
    append(run, row(100, **{"generator/kl": 2.0}), {"images": 100, "event": "rollback"})
    reader.update()
    append(run, row(200, **{"generator/kl": 1.0}), end="")
    reader.update()
    assert [each["images"] for each in reader.rows] == [100] and reader.version == 1, "half a line is left for later"
    parsed = []
    parse = follow._parse
    monkeypatch.setattr(follow, "_parse", lambda line: parsed.append(line) or parse(line))
    append(run, end="\n")
    reader.update()
    reader.update()
    assert [each["images"] for each in reader.rows] == [100, 200] and len(parsed) == 1
    assert reader.collect_curves()["generator"] == {"kl": [(100, 2.0), (200, 1.0)]}
    summary = reader.summarise()
    assert summary["state"] == "running" and summary["images_per_second"] == 100
    assert summary["seconds_left"] == pytest.approx(8) and summary["measures"] == {"generator/kl": 1.0}
    other = tmp_path / "other"
    other.write_text(json.dumps(row(50)) + "\n")
    other.replace(run.metrics_file)
    reader.update()
    assert [each["images"] for each in reader.rows] == [50], "a resumed training replaces the file"


def test_the_state_of_a_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(tmp_path)
    reader = follow.MetricsReader(run)
    append(run, row(100))
    reader.update()
    monkeypatch.setattr(follow.time, "time", lambda: Path(run.metrics_file).stat().st_mtime + 1000)
    assert reader.summarise()["state"] == "interrupted"
    append(run, row(1000))
    reader.update()
    summary = reader.summarise()
    assert summary["state"] == "finished"
    assert "<b>1,000</b>" in follow.format_progress(summary) and "width: 100.00%" in follow.format_progress(summary)


def test_scores_come_after_losses(tmp_path: Path) -> None:
    run = Run(tmp_path)
    append(run, row(100, **{"lr/generator": 1.0, "eval/fid": 3.0, "generator/kl": 2.0}))
    reader = follow.MetricsReader(run)
    reader.update()
    assert list(reader.collect_curves()) == ["generator", "eval: fid", "speed", "lr"]


@pytest.mark.extras
def test_the_page_follows_a_training(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("gradio")
    from gradio_client import Client
    from gradio_client.exceptions import AppError

    from stackflower.demo.server import serving

    run = Run(tmp_path / "run")
    shutil.copytree(trained, run.path)
    run.metrics_file.unlink()
    first, *others = run.samples.glob("images-*.png")
    for grid in others:
        grid.unlink()
    first.rename(run.samples / "images-000000100.png")
    append(run, row(100, **{"generator/kl": 2.0}))
    monkeypatch.setattr(follow, "REFRESH_SECONDS", 0.3)
    monkeypatch.setattr(follow, "CHART_SECONDS", 0.3)
    with serving(None, lambda request: "", follow=run, port=find_free_port()) as address:
        client = Client(address, verbose=False, analytics_enabled=False, download_files=str(tmp_path / "downloads"))
        progress = client.predict(api_name="/progress")
        assert (progress["images"], progress["grids"], progress["state"]) == (100, 1, "running")
        shown, _ = client.predict(number=1, api_name="/grid")
        assert Path(shown).read_bytes() == (run.samples / "images-000000100.png").read_bytes()
        with pytest.raises(AppError, match="“Grid” must be an integer from 1 to 2, got 99"):
            client.predict(number=99, api_name="/grid")
        if (executable := shutil.which("chromium")) is not None:
            watch(address, executable, run)


def watch(address: str, executable: str, run: Run) -> None:
    """Open the page in Chromium, and let the training progress."""
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        page = browser.new_page()
        page.goto(address)
        page.get_by_text("100", exact=True).first.wait_for()
        page.wait_for_selector("#grid img")
        shutil.copy(run.samples / "images-000000100.png", run.samples / "images-000000500.png")
        append(run, row(500, **{"generator/kl": 1.0, "discriminator-16/real": 0.5}))
        page.get_by_text("Grid after 500 images").wait_for()
        page.get_by_text("discriminator-16", exact=True).first.wait_for()
        page.locator("#progress").get_by_text("500", exact=True).wait_for()
        browser.close()


def test_long_curves_are_averaged(tmp_path: Path) -> None:
    run = Run(tmp_path)
    append(run, *(row(number, **{"generator/kl": 1.0}) for number in range(2_000)))
    reader = follow.MetricsReader(run)
    reader.update()
    points = reader.collect_curves()["generator"]["kl"]
    assert 200 <= len(points) <= 300 and points[-1][0] > 1_990

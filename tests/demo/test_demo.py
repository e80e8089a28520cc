"""The demo as a user meets it: through gradio's client, and in a browser."""

from __future__ import annotations

import io
import json
import re
import shlex
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from conftest import FEW, ROOT, TINY_NETWORKS, find_free_port, settings
from PIL import Image

from stackflower.cli import main
from stackflower.commands.demo import format_sample_command
from stackflower.pipeline import Pipeline

pytestmark = pytest.mark.extras
CAPTION = "a red flower with round petals"


def read(files: list[dict[str, Any]]) -> list[np.ndarray]:
    """Return the pixels of the images that a gallery of the client holds."""
    return [np.asarray(Image.open(item["image"])) for item in files]


def assert_equal(images: list[np.ndarray], expected: list[Image.Image]) -> None:
    assert len(images) == len(expected)
    for image, other in zip(images, expected, strict=True):
        assert image.shape == np.asarray(other).shape
        assert np.abs(image.astype(int) - np.asarray(other).astype(int)).max() <= 1


@pytest.fixture(scope="module")
def demo(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleNamespace]:
    """Serve the demo with two runs: one of three resolutions whose encoder has a vocabulary, and `trained`."""
    pytest.importorskip("gradio")
    from accelerate.state import AcceleratorState, PartialState
    from gradio_client import Client

    from stackflower.demo.models import Models
    from stackflower.demo.server import serving

    folder = tmp_path_factory.mktemp("demo")
    tree = str(folder / "tree")
    parts = ["--generator", "tree", "--text", "rnn", *settings("generator.resolution=64", "text.dim=16")]
    flags = [*TINY_NETWORKS, *FEW, *parts, *settings("text.word_dim=8"), "--images", "16", "--threads", "1"]
    main(["train", "--out", tree, *flags], standalone_mode=False)
    AcceleratorState._reset_state()
    PartialState._reset_state()
    addresses = set()
    connect = socket.socket.connect

    def record(self: socket.socket, address: Any) -> Any:
        if self.family in (socket.AF_INET, socket.AF_INET6):
            addresses.add(address[0])
        return connect(self, address)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", record)
        with serving(Models([tree, str(trained)]), format_sample_command, port=find_free_port()) as address:
            client = Client(address, verbose=False, analytics_enabled=False, download_files=str(folder / "downloads"))
            yield SimpleNamespace(address=address, client=client, tree=tree, trained=str(trained))
    assert addresses <= {"127.0.0.1", "::1", "localhost"}, "a request left this machine"


def refuse(demo: SimpleNamespace, *args: Any, **values: Any) -> str:
    """Return the message of a refused call."""
    from gradio_client.exceptions import AppError

    with pytest.raises(AppError) as error:
        demo.client.predict(*args, **values)
    assert "Traceback" not in str(error.value) and "`" not in str(error.value)
    return str(error.value)


def test_every_control_of_draw_reaches_the_pipeline(demo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = {"images": 3, "seed": 5, "truncation": 0.7, "best_of": 2, "side_by_side": True, "model": demo.tree}
    gallery, command, archive, _ = demo.client.predict(CAPTION, **values, api_name="/draw")
    pipeline = Pipeline.from_run(demo.tree, with_discriminator=True)
    options = {"truncation": 0.7, "best_of": 2, "side_by_side": True}
    assert_equal(read(gallery), pipeline(CAPTION, per_caption=3, seed=5, **options))
    assert read(gallery)[0].shape == (64, 192, 3)
    monkeypatch.chdir(tmp_path)
    main([*shlex.split(command)[1:], "--out", "again"], standalone_mode=False)
    again = [Image.open(path) for path in sorted(Path("again").glob("*.png"))]
    assert_equal(read(gallery), again)
    assert Path(archive).suffix == ".zip"


def test_draw_works_with_a_caption_alone(demo) -> None:
    gallery, command, *_ = demo.client.predict(CAPTION, model=demo.trained, api_name="/draw")
    assert_equal(read(gallery), Pipeline.from_run(demo.trained)(CAPTION, per_caption=8))
    assert command == shlex.join(["stackflower", "sample", demo.trained, CAPTION, "--per-caption", "8", "--seed", "0"])


def test_words_outside_of_the_vocabulary_are_named(demo) -> None:
    *_, notes = demo.client.predict("a red zyxflower", images=1, api_name="/draw")
    assert "zyxflower" in notes and "vocabulary" in notes
    *_, notes = demo.client.predict("a red flower", images=1, api_name="/draw")
    assert not notes


@pytest.mark.parametrize("kind", ["GIF", "WebP"])
def test_between_leads_from_one_end_to_the_other(demo, kind: str) -> None:
    ends = {"caption": CAPTION, "end_caption": "a blue flower", "seed": 3, "end_seed": "4"}
    rest = {"frames": 5, "truncation": 0, "animation": kind, "model": demo.trained}
    frames, film, _ = demo.client.predict(**ends, **rest, api_name="/between")
    pipeline = Pipeline.from_run(demo.trained)
    images = read(frames)
    assert len(images) == 5
    assert_equal([images[0], images[-1]], [pipeline(CAPTION, seed=3)[0], pipeline("a blue flower", seed=4)[0]])
    with Image.open(film) as animation:
        assert animation.n_frames >= 5 and animation.format == kind.upper()
    one_caption, *_ = demo.client.predict(**{**ends, "end_caption": ""}, **rest, api_name="/between")
    assert_equal([read(one_caption)[-1]], [pipeline(CAPTION, seed=4)[0]])
    one_seed, *_ = demo.client.predict(**{**ends, "end_seed": ""}, **rest, api_name="/between")
    assert_equal([read(one_seed)[-1]], [pipeline("a blue flower", seed=3)[0]])


def test_compare_shows_both_models_for_the_same_seed(demo) -> None:
    values = {"images": 2, "seed": 9, "truncation": 1, "model": demo.tree, "other_model": demo.trained}
    first, second, notes = demo.client.predict(CAPTION, **values, api_name="/compare")
    for gallery, name in ((first, demo.tree), (second, demo.trained)):
        expected = Pipeline.from_run(name)(CAPTION, per_caption=2, seed=9, truncation=1)
        assert_equal(read(gallery), expected)
    assert "only the seed is equal" in notes, "a tree takes noise of another size"
    values["other_model"] = demo.tree
    first, second, notes = demo.client.predict(CAPTION, **values, api_name="/compare")
    assert_equal(read(first), [Image.fromarray(image) for image in read(second)])
    assert not notes


def test_bad_calls_get_a_sentence(demo) -> None:
    for caption, message in (
        ("", "“Caption” is empty; describe what the image should show."),
        ("x" * 100_000, "“Caption” has 100,000 characters; at most 10,000 are allowed."),
        ("<img src=http://example.org/x.png>", "knows no word of the caption: '&lt;img src=http"),
        ("🌹🌹", "knows no word of the caption: '🌹🌹'"),
    ):
        assert message in refuse(demo, caption, api_name="/draw")
    assert "“Images” must be an integer from 1 to 64, got 65" in refuse(demo, CAPTION, images=65, api_name="/draw")
    assert "“Model” must be one of" in refuse(demo, CAPTION, model="/etc", api_name="/draw")
    message = refuse(demo, CAPTION, model=demo.trained, side_by_side=True, api_name="/draw")
    assert message.startswith("“All stages side by side”: the model generates 16 px only")
    assert "“To seed” must be an integer" in refuse(demo, CAPTION, end_seed="x", api_name="/between")
    assert "Nothing changes" in refuse(demo, CAPTION, CAPTION, api_name="/between")
    assert "from 1 to 32, got 33" in refuse(demo, CAPTION, images=33, api_name="/compare")


def test_the_api_has_the_promised_names(demo) -> None:
    endpoints = demo.client.view_api(return_format="dict", print_info=False)["named_endpoints"]
    assert set(endpoints) == {"/draw", "/between", "/compare"}
    names = [parameter["parameter_name"] for parameter in endpoints["/draw"]["parameters"]]
    assert names == ["caption", "images", "seed", "truncation", "best_of", "side_by_side", "model"]


def test_the_example_of_the_docs_runs(demo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    *_, block = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "demo.md").read_text(encoding="utf-8"), re.DOTALL)
    for name, value in (
        ("http://127.0.0.1:7860", demo.address),
        ("runs/a", demo.tree),
        ("runs/b", demo.trained),
    ):
        assert name in block
        block = block.replace(name, value)
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    exec(compile(block, "demo.md", "exec"), {})
    assert capsys.readouterr().out.strip().endswith(".png")


@pytest.fixture(scope="module")
def page(demo) -> Iterator[Any]:
    """Open the demo in headless Chromium, which may not reach other machines."""
    playwright = pytest.importorskip("playwright.sync_api")
    executable = shutil.which("chromium") or shutil.which("chromium-browser")
    if executable is None:
        pytest.skip("Chromium is not installed")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1440, "height": 900})
        outside: list[str] = []
        page.on("request", lambda request: outside.append(request.url))
        page.goto(demo.address)
        yield page
        browser.close()
        assert [url for url in outside if not url.startswith((demo.address, "data:", "blob:"))] == []


def test_a_caption_is_drawn_in_the_browser(demo, page) -> None:
    page.get_by_label("Caption").first.fill(CAPTION)
    page.get_by_role("button", name="Draw", exact=True).click()
    page.wait_for_selector("#drawn img")
    sources = page.eval_on_selector_all("#drawn img", "images => images.map(image => image.src)")
    responses = [page.request.get(source).body() for source in sources]
    images = [np.asarray(Image.open(io.BytesIO(body))) for body in responses]
    assert_equal(images, Pipeline.from_run(demo.tree)(CAPTION, per_caption=8))
    command = page.locator(".command textarea").input_value()
    assert Image.open(io.BytesIO(responses[0])).info["Comment"] == command


def test_the_dice_and_the_examples_fill_their_fields(demo, page) -> None:
    page.locator(".dice").first.click()
    page.wait_for_function("document.querySelector('.seed input').value !== '0'")
    example = page.locator(".examples button").nth(1)
    example.click()
    shown = example.inner_text().strip().removesuffix("...")  # long ones are cut
    page.wait_for_function(f"document.querySelector('textarea').value.startsWith({json.dumps(shown)})")


def test_the_slider_scrubs_through_the_frames(demo, page) -> None:
    page.get_by_role("tab", name="Between").click()
    page.get_by_role("button", name="Draw the way").click()
    page.wait_for_selector("#frame img")
    frames = page.eval_on_selector_all("#strip img", "images => images.map(image => image.src)")
    assert len(frames) == 24
    assert page.locator("#frame img").get_attribute("src") == frames[0]
    page.locator("#scrub input[type=range]").fill("50")
    page.wait_for_function("source => document.querySelector('#frame img').src === source", arg=frames[12])


def test_html_in_a_message_is_text(demo, page) -> None:
    page.get_by_role("tab", name="Draw").click()
    page.get_by_label("Caption").first.fill("<img src=http://example.org/x.png>")
    page.get_by_role("button", name="Draw", exact=True).click()
    toast = page.locator(".toast-body").first
    toast.wait_for()
    assert "<img src=http://example.org/x.png>" in toast.inner_text()
    assert toast.locator("img").count() == 0
    page.locator(".toast-close").first.click()


@pytest.mark.parametrize("width", [1440, 390])
def test_nothing_is_wider_than_the_window(page, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 900})
    for name in ("Draw", "Between", "Compare"):
        page.get_by_role("tab", name=name).click()
        assert page.evaluate("document.documentElement.scrollWidth") <= width

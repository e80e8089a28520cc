"""An exported page in a browser: the images of `Pipeline`, no other requests, no errors.

The tests need playwright, Chromium, and the folder dist of npm's onnxruntime-web in STACKFLOWER_ORT_WEB.
"""

from __future__ import annotations

import functools
import http.server
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from stackflower.models.export import export_network
from stackflower.models.web import CDN
from stackflower.pipeline import Pipeline
from stackflower.stages.noise import NoiseTable

RUNTIME = os.environ.get("STACKFLOWER_ORT_WEB")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.extras,
    pytest.mark.skipif(RUNTIME is None, reason="STACKFLOWER_ORT_WEB names the folder dist of npm's onnxruntime-web"),
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium"),
]
ISOLATION = {"Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Embedder-Policy": "require-corp"}
CAPTIONS = ["Yellow Flowers with ﬁve petals", "eine weiße Blüte, STRASSE", "红色的花 🌹"]


class Handler(http.server.SimpleHTTPRequestHandler):
    """Server of files, which isolates pages from other origins if the browser is named "isolated"."""

    def end_headers(self) -> None:
        for name, value in ISOLATION.items() if "isolated" in self.headers.get("User-Agent", "") else ():
            self.send_header(name, value)
        super().end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Print nothing."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as library:
        browser = library.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def site(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server of two exports: ``local`` with its runtime, ``cdn`` without."""
    pytest.importorskip("onnxscript")
    folder = tmp_path_factory.mktemp("site")
    pipeline = Pipeline.from_run(trained, "cpu")
    for name, runtime in (("local", RUNTIME), ("cdn", None)):
        parts = (pipeline.stage, pipeline.encoder, folder / name)
        export_network(*parts, format="web", captions=CAPTIONS, runtime=runtime)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=folder))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture
def visit(browser: Any, site: str) -> Iterator[Callable[..., Any]]:
    """Return a function that opens a page and waits for its images, and list what went wrong there."""
    contexts = []

    def open_page(name: str, prepare: Callable[[Any], None] = lambda page: None, **options: Any) -> Any:
        context = browser.new_context(**options)
        contexts.append(context)
        page = context.new_page()
        page.problems, page.urls = [], []
        page.on("console", lambda message: page.problems.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: page.problems.append(str(error)))
        page.on("request", lambda request: page.urls.append(request.url))
        prepare(page)
        page.goto(f"{site}/{name}/")
        page.wait_for_selector("body[data-state=drawn], body[data-state=failed]")
        return page

    yield open_page
    for context in contexts:
        context.close()


def read_canvas(page: Any, number: int) -> torch.Tensor:
    """Return the pixels of an image on the page, (R, R, 3)."""
    values = (
        page.locator("canvas")
        .nth(number)
        .evaluate(
            "(canvas) => Array.from(canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data)"
        )
    )
    return torch.tensor(values).reshape(16, 16, 4)[..., :3]


def draw(page: Any, caption: str, noise: list[list[float]]) -> torch.Tensor:
    """Return the images that the page generates from given noise, (N, R, R, 3)."""
    values = page.evaluate(
        "async ([caption, noise]) => (await stackflower.draw(caption, noise)).map((image) => Array.from(image.data))",
        [caption, noise],
    )
    return torch.tensor(values).reshape(len(noise), 16, 16, 4)[..., :3]


def wait_until(page: Any, condition: Callable[[], Any], seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        page.wait_for_timeout(50)


@pytest.mark.parametrize("isolated", [False, True], ids=["one thread", "threads"])
def test_the_page_generates_the_images_of_the_pipeline(
    isolated: bool, visit: Callable[..., Any], site: str, trained: Path
) -> None:
    page = visit("local", user_agent="isolated" if isolated else "plain")
    assert page.evaluate("[crossOriginIsolated, ort.env.wasm.numThreads > 1]") == [isolated, isolated]
    pipeline = Pipeline.from_run(trained, "cpu")
    noise = NoiseTable(pipeline.stage, 3, None).get_rows(0, 4)
    for caption in CAPTIONS:
        expected = torch.cat(list(pipeline.generate([caption], per_caption=4, seed=3))).int()
        assert expected.float().std() > 5
        assert (draw(page, caption, noise.tolist()) - expected).abs().max() <= 2
    assert page.problems == [] and all(url.startswith(site) for url in page.urls)


def test_the_controls_draw_what_they_say(visit: Callable[..., Any], site: str) -> None:
    page = visit("local")
    assert page.locator("canvas").count() == 8 and page.locator("#examples button").count() == len(CAPTIONS)
    page.fill("#seed", "7")
    page.fill("#count", "3")
    page.fill("#caption", CAPTIONS[1])
    page.press("#caption", "Enter")
    page.get_by_text("3 images in").wait_for()
    assert page.locator("canvas").count() == 3
    noise = page.evaluate("[0, 1, 2].map((number) => Array.from(stackflower.drawNoise(7, number)))")
    expected = draw(page, CAPTIONS[1], noise)
    assert all(torch.equal(read_canvas(page, number), expected[number]) for number in range(3))
    assert not torch.equal(expected[0], expected[1])
    assert abs(torch.tensor(noise).mean()) < 0.3 and 0.8 < torch.tensor(noise).std() < 1.2
    with page.expect_download() as download:
        page.locator("figure button").first.click(force=True)
    assert download.value.suggested_filename == "eine-weiße-blüte-strasse-7-0.png"
    page.click("#dice")
    page.fill("#caption", " ")
    page.click("#draw")
    page.get_by_text("Type what the image should show.").wait_for()
    page.fill("#caption", "_")
    page.click("#draw")
    page.get_by_text("has no word that the model can use").wait_for()
    for caption, message in (
        ("a " * 1001, "1,001 words; at most 1,000"),
        ("a" * 100_000, "100,000 characters; at most"),
    ):
        page.fill("#caption", caption)
        page.click("#draw")
        page.get_by_text(message).wait_for()
    page.fill("#caption", "<script>alert(1)</script> 🌺")
    page.click("#draw")
    page.get_by_text("3 images in").wait_for()
    assert page.problems == [] and all(url.startswith((site, "blob:")) for url in page.urls)


def test_the_slider_leads_from_one_caption_to_the_other(visit: Callable[..., Any]) -> None:
    page = visit("local")
    page.fill("#count", "1")
    page.check("#blend")
    page.locator("#examples button").nth(2).click()  # replaces the second caption
    assert page.input_value("#caption-2") == CAPTIONS[2]
    noise = page.evaluate("[Array.from(stackflower.drawNoise(0, 0))]")
    ends = [draw(page, caption, noise)[0] for caption in (CAPTIONS[0], CAPTIONS[2])]
    assert not torch.equal(*ends)
    for share, expected in (("0", ends[0]), ("100", ends[1])):
        page.locator("#share").fill(share)
        wait_until(page, lambda expected=expected: (read_canvas(page, 0) - expected).abs().max() <= 1)
    page.locator("#share").fill("50")
    wait_until(page, lambda: not any(torch.equal(read_canvas(page, 0), end) for end in ends))


def serve_runtime(page: Any, altered: str | None = None) -> None:
    """Answer requests to the CDN with npm's files, one of which may be altered."""

    def answer(route: Any) -> None:
        name = route.request.url.removeprefix(CDN)
        content = (Path(str(RUNTIME)) / name).read_bytes() + (b"\n" if name == altered else b"")
        kind = "application/wasm" if name.endswith(".wasm") else "text/javascript"
        route.fulfill(body=content, headers={"Content-Type": kind, "Access-Control-Allow-Origin": "*"})

    page.route(f"{CDN}*", answer)


def test_the_page_runs_with_the_runtime_of_the_cdn(visit: Callable[..., Any], site: str) -> None:
    page = visit("cdn", serve_runtime)
    assert "images in" in page.inner_text("#status") and page.problems == []
    assert {url for url in page.urls if not url.startswith(site)} == {
        f"{CDN}{name}" for name in ("ort.wasm.min.js", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
    }


@pytest.mark.parametrize("altered", ["ort.wasm.min.js", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm"])
def test_an_altered_runtime_is_not_run(altered: str, visit: Callable[..., Any]) -> None:
    page = visit("cdn", functools.partial(serve_runtime, altered=altered))
    page.get_by_text("The model could not be loaded").wait_for()
    assert any("integrity" in problem for problem in page.problems)


def test_a_missing_model_is_a_sentence(visit: Callable[..., Any]) -> None:
    page = visit("local", lambda page: page.route("**/model.onnx", lambda route: route.fulfill(status=404)))
    page.get_by_text("The model could not be loaded: model.onnx answered 404.").wait_for()
    assert page.is_disabled("#draw")


def test_nothing_can_be_sent_elsewhere(visit: Callable[..., Any], site: str) -> None:
    page = visit("local")
    for url in ("https://example.org/", CDN):
        assert page.evaluate("(url) => fetch(url).then(() => 'sent', () => 'blocked')", url) == "blocked"
    assert any("Content Security Policy" in problem for problem in page.problems)

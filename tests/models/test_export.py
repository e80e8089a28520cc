"""``stackflower export``: what is written, what is replaced, and what is refused."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import os
import re
import shutil
from pathlib import Path

import pytest
import torch
from conftest import FEW, TINY_NETWORKS, settings

from stackflower.errors import ConfigError
from stackflower.models.export import choose_format
from stackflower.models.onnx import read_metadata
from stackflower.models.web import CDN, INTEGRITY, STATIC_FILES, find_runtime
from stackflower.pipeline import Pipeline
from stackflower.runs.folder import Run
from stackflower.stages.base import Stage
from stackflower.text.encoders.multi_hot import MultiHotEncoder

WEB = ("--format", "web")


def write_model(stage: Stage, text_dim: int, path: Path, *, half: bool) -> None:
    """Stands in for the export of the network where only the page matters."""
    path.write_bytes(b"model")


@pytest.fixture
def page(stackflower, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A page that loads its runtime from the CDN."""
    monkeypatch.setattr("stackflower.models.web.export_onnx", write_model)
    stackflower("export", trained, "page", *WEB, "--caption", "</script><b>", "--caption", "ein  Veilchen & \u2028")
    assert {file.name for file in (tmp_path / "page").iterdir()} == {"index.html", "model.onnx", *STATIC_FILES}
    return (tmp_path / "page" / "index.html").read_text(encoding="utf-8")


@pytest.mark.extras
def test_a_run_is_exported_replaced_and_never_overwrites_another_file(
    stackflower, trained: Path, tmp_path: Path
) -> None:
    pytest.importorskip("onnxscript")
    onnxruntime = pytest.importorskip("onnxruntime")
    result = stackflower("export", trained, "out/flowers.onnx", "--json")
    path = tmp_path / "out" / "flowers.onnx"
    written = json.loads(result.stdout)
    assert written == {"out": str(Path("out/flowers.onnx")), "format": "onnx", "bytes": path.stat().st_size}
    state = torch.get_rng_state()
    stackflower("export", trained, path, "--half", "--quiet")
    assert torch.equal(torch.get_rng_state(), state)
    assert path.stat().st_size < written["bytes"] and read_metadata(path)["text_dim"] == "64"
    pipeline = Pipeline.from_run(trained, "cpu")
    embedding, noise = pipeline.encoder(["a red flower"]), torch.randn(1, pipeline.stage.noise_dim)
    (images,) = onnxruntime.InferenceSession(path).run(None, {"embedding": embedding.numpy(), "noise": noise.numpy()})
    assert torch.allclose(torch.from_numpy(images), pipeline.stage(embedding, noise).images[0], atol=2 / 127.5)
    path.write_text("mine")
    message = stackflower("export", trained, path, code=2).output
    assert f"{path} exists and is not an export of Stackflower. Choose another OUT." in message
    assert path.read_text() == "mine"


def read_config(page: str) -> dict[str, object]:
    return json.loads(re.search(r'<script type="application/json" id="config">(.*?)</script>', page, re.DOTALL)[1])


def test_the_page_holds_its_captions_as_text(page: str) -> None:
    config = read_config(page)
    assert config["examples"] == ["</script><b>", "ein Veilchen &"]
    assert config["noise"] == [["normal", 8], ["normal", 64]] and config["output"] == "images_16"
    assert config["encoder"]["dim"] == 64 and config["encoder"]["folds"]["ß"] == "ss"
    assert "<title>page</title>" in page and page.count("<script") == page.count("</script>") == 4


def test_the_policy_allows_the_page_and_the_pinned_runtime_alone(page: str) -> None:
    policy = html.unescape(re.search(r'http-equiv="Content-Security-Policy" content="(.*?)"', page)[1])
    allowed = {
        name: sources.split() for name, _, sources in (part.strip().partition(" ") for part in policy.split(";"))
    }
    import_map = re.search(r'<script type="importmap">(.*?)</script>', page, re.DOTALL)[1]
    checksum = base64.b64encode(hashlib.sha256(import_map.encode()).digest()).decode()
    assert allowed["default-src"] == ["'none'"] and allowed["connect-src"] == ["'self'", CDN]
    assert allowed["script-src"] == ["'self'", "'wasm-unsafe-eval'", f"'sha256-{checksum}'", CDN]
    assert re.search(r"onnxruntime-web@\d+\.\d+\.\d+/dist/$", CDN), "an exact version"
    assert read_config(page)["runtime"]["integrity"] == INTEGRITY
    modules = {CDN + name: checksum for name, checksum in INTEGRITY.items() if name.endswith(".mjs")}
    assert len(modules) == 2 and json.loads(import_map)["integrity"] == modules
    assert not re.findall(r"\bon[a-z]+=|style=", page), "nothing that the policy blocks"


def write_runtime(folder: Path) -> Path:
    folder.mkdir(parents=True)
    for name in INTEGRITY:
        (folder / name).write_text(name)
    return folder


def test_a_page_with_its_runtime_names_no_other_server(
    stackflower, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stackflower.models.web.export_onnx", write_model)
    runtime = write_runtime(tmp_path / "package" / "dist").parent
    stackflower("export", trained, "page", *WEB, "--runtime", runtime)
    page = (tmp_path / "page" / "index.html").read_text(encoding="utf-8")
    assert CDN not in page and "importmap" not in page
    assert {file.name for file in (tmp_path / "page" / "runtime").iterdir()} == set(INTEGRITY)
    examples = read_config(page)["examples"]
    assert 2 <= len(examples) <= 6 and set(examples) <= set(Run(trained).read_captions())


def test_a_page_is_replaced_but_nothing_else(
    stackflower, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stackflower.models.web.export_onnx", write_model)
    page = tmp_path / "page"
    page.mkdir()  # an empty folder
    stackflower("export", trained, "page", *WEB, "--caption", "first")
    stackflower("export", trained, "page", *WEB, "--caption", "second")
    assert read_config((page / "index.html").read_text(encoding="utf-8"))["examples"] == ["second"]
    (page / ".unfinished-1").mkdir()  # as a killed process leaves it
    stackflower("export", trained, page, *WEB, "--runtime", write_runtime(tmp_path / "dist"))
    monkeypatch.chdir(page)
    stackflower("export", trained, ".", *WEB)
    assert {file.name for file in page.iterdir()} == {"index.html", "model.onnx", *STATIC_FILES}
    monkeypatch.chdir(tmp_path)
    (page / "mine.txt").touch()
    message = stackflower("export", trained, "page", *WEB, code=2).output
    assert "page exists and holds something else than an exported page. Choose another OUT." in message
    (tmp_path / "file").touch()
    stackflower("export", trained, "file", *WEB, code=2)
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "index.html").write_text("<h1>mine</h1>")
    stackflower("export", trained, "site", *WEB, code=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dist", "file", "page", "site"], "no leftovers"
    assert (tmp_path / "site" / "index.html").read_text() == "<h1>mine</h1>"


def test_a_failed_export_keeps_the_page(
    stackflower, page: str, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stackflower.models.web.export_onnx", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        stackflower("export", trained, "page", *WEB)
    with pytest.raises(ZeroDivisionError):
        stackflower("export", trained, "new", *WEB)
    assert (tmp_path / "page" / "index.html").read_text(encoding="utf-8") == page
    assert {file.name for file in tmp_path.iterdir()} == {"page"}
    assert {file.name for file in (tmp_path / "page").iterdir()} == {"index.html", "model.onnx", *STATIC_FILES}


def test_the_format_follows_from_the_name_and_decides_about_the_other_flags() -> None:
    assert [choose_format(name) for name in ("a.onnx", "A.ONNX", "a", "a.b")] == ["onnx", "onnx", "model", "model"]
    assert choose_format("a.onnx", "web", runtime="dist", captions=["a"], license=None) == "web"
    with pytest.raises(ConfigError, match="`runtime` does not apply to `format=onnx`; it belongs to `format=web`"):
        choose_format("a.onnx", runtime="dist")
    with pytest.raises(ConfigError, match="it belongs to `format=model` or `format=web`"):
        choose_format("a.onnx", captions=["a"])
    with pytest.raises(ConfigError, match="`format=tar` is unknown; choose one of: model, onnx, web"):
        choose_format("a", "tar")


def test_a_folder_to_share_is_the_default(stackflower, trained: Path) -> None:
    stackflower("export", trained, "shared", "--half", "--caption", "a red flower", "--license", "cc0-1.0")
    assert Pipeline.from_pretrained("shared").record.captions == ["a red flower"]
    assert "cc0-1.0" in Path("shared", "README.md").read_text(encoding="utf-8")


def test_wrong_calls_say_what_to_type(stackflower, trained: Path, tmp_path: Path) -> None:
    message = stackflower("export", trained, "a.onnx", "--license", "mit", code=2).output
    assert "--license does not apply to --format onnx; it belongs to --format model." in message
    runtime = write_runtime(tmp_path / "runtime")
    (runtime / "ort.wasm.min.js").unlink()
    message = stackflower("export", trained, "page", *WEB, "--runtime", runtime, code=2).output
    assert "lacks ort.wasm.min.js" in message and "--runtime node_modules/onnxruntime-web/dist" in message
    assert "nowhere is not a folder" in stackflower("export", "nowhere", "a.onnx", code=2).output
    assert not list(tmp_path.glob("*.onnx")) and not (tmp_path / "page").exists()


def test_a_run_with_another_text_encoder_has_no_page(stackflower, trained: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(trained, tmp_path / "run"))
    config = json.loads((run / "config.json").read_text())
    config["run"]["text"] = {"name": "multi-hot", "tags": 64}
    encoder = MultiHotEncoder(tags=64)
    encoder.fit([", ".join(f"tag{number}" for number in range(64))])
    (run / "text").mkdir()
    encoder.save(run / "text")
    config |= {"encoder": encoder.fingerprint(), "text_dim": encoder.dim}
    (run / "config.json").write_text(json.dumps(config))
    message = stackflower("export", run, "page", *WEB, code=2).output
    assert "text encoder multi-hot, but a web page can only use ngram" in message
    assert not (tmp_path / "page").exists()


@pytest.mark.skipif("STACKFLOWER_ORT_WEB" not in os.environ, reason="names the folder dist of npm's onnxruntime-web")
def test_the_files_of_the_runtime_have_the_pinned_checksums() -> None:
    for file in find_runtime(Path(os.environ["STACKFLOWER_ORT_WEB"])):
        checksum = base64.b64encode(hashlib.sha384(file.read_bytes()).digest()).decode()
        assert INTEGRITY[file.name] == f"sha384-{checksum}", file.name


@pytest.mark.parametrize("layout", ["onnx", "web"])
def test_a_generator_that_uses_words_is_refused(stackflower, tmp_path: Path, layout: str) -> None:
    sizes = settings("text.dim=16", "generator.resolution=32", "generator.scales=2")
    tiny = [*TINY_NETWORKS, *FEW, *sizes, "--generator", "attention"]
    stackflower("train", "--out", "run", "--images", 8, *tiny)
    said = stackflower("export", "run", "out", "--format", layout, code=2).output
    assert "which only Stackflower encodes. Use --format model." in said
    assert not (tmp_path / "out").exists()

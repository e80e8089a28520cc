"""Export of a stage as a web page that generates images in the browser, with ONNX Runtime Web."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader
from markupsafe import Markup

from stackflower import __version__, registry
from stackflower.errors import ConfigError
from stackflower.models.onnx import export_onnx, name_outputs
from stackflower.stages.base import Stage
from stackflower.text.base import TextEncoder
from stackflower.text.encoders.ngram import FUNCTION_WORDS, NgramEncoder
from stackflower.utils.atomic import reporting_write_errors

STATIC_FILES = ("app.js", "ngram.js", "style.css", "icon.svg")
RUNTIME_FOLDER = "runtime"
UNFINISHED = ".unfinished-"
MARK = '<meta name="generator" content="Stackflower '

RUNTIME_VERSION = "1.30.0"  # of npm's onnxruntime-web
CDN = f"https://cdn.jsdelivr.net/npm/onnxruntime-web@{RUNTIME_VERSION}/dist/"
# Checksums of the files of that version: script, glue code and WebAssembly for each backend.
INTEGRITY = {
    "ort.wasm.min.js": "sha384-Bw6URI+Gvoadw0do7/QrSHUC9D1vCYYK5OSqChFyhyV5mzPL4oe2rOAFljAnS8Sq",
    "ort-wasm-simd-threaded.mjs": "sha384-XcXA/MtAf0WpB8e023xQH9CM7RIjiugakT7x99DIwpFf7k56BIFFcAPerIF7FDad",
    "ort-wasm-simd-threaded.wasm": "sha384-vjBJ1z7qrhkTyYsNqKeF6c7N+nOJSU94czEo+tvZcu8G75JparGq9kB+kTnEUNVM",
    "ort.webgpu.min.js": "sha384-6BOUZhMpgaXRZBIj89pTWET0c7xcMe1yHACreuaBy2kUZwLd2tzCmv7MzwZccHYH",
    "ort-wasm-simd-threaded.asyncify.mjs": "sha384-qViEcCGzsR/m8nlQwIsbYh7afN4thuraqFYDQY6huvmoLVoZq/eYawQ1wrv8nnhA",
    "ort-wasm-simd-threaded.asyncify.wasm": "sha384-EPVDLTxuO663dkZO/pcKJF6vOyyfq/5z9FY1oksN0UWFX2ABH4wDDZQHeNoUleWR",
}
CDN_SIZES = {"ort-wasm-simd-threaded.wasm": 14_239_897, "ort-wasm-simd-threaded.asyncify.wasm": 26_781_914}  # bytes


def export_web(
    stage: Stage,
    encoder: TextEncoder,
    folder: Path,
    *,
    title: str,
    examples: Sequence[str],
    half: bool = False,
    runtime: Path | None = None,
) -> None:
    """Write a folder with a web page that generates images for captions in the browser.

    Any static web server can serve the folder. The page encodes captions in JavaScript and runs the model with ONNX
    Runtime Web, on the GPU where WebGPU is available. Its content security policy allows requests to its own server and
    to the runtime's files only. A seed gives other noise than in Python.

    Args:
        stage: trained stage; it is set to evaluation mode.
        encoder: text encoder of the stage, which must be `ngram`.
        folder: folder to write; an earlier export there is replaced.
        title: title of the page.
        examples: example captions.
        half: store weights as float16, which halves the download.
        runtime: folder `dist` of npm's onnxruntime-web, whose files are copied. Default: the page loads a fixed version
            from jsDelivr and checks its files against known checksums.

    Raises:
        ConfigError: the encoder is another one, `folder` holds something else, `runtime` lacks a file, or the folder
            can't be written.
        MissingDependency: onnx or onnxscript is not installed.
    """
    options = describe_encoder(encoder)
    runtime_files = [] if runtime is None else find_runtime(runtime)
    check_replaceable(folder)
    environment = Environment(loader=PackageLoader("stackflower.models", "web"), autoescape=True)
    with reporting_write_errors(folder, ConfigError), _replacing_export(folder) as temporary:
        export_onnx(stage, encoder.dim, temporary / "model.onnx", half=half)
        for name in STATIC_FILES:
            shutil.copyfile(Path(__file__).parent / "web" / name, temporary / name)
        for file in runtime_files:
            (temporary / RUNTIME_FOLDER).mkdir(exist_ok=True)
            shutil.copyfile(file, temporary / RUNTIME_FOLDER / file.name)
        size = (temporary / "model.onnx").stat().st_size
        config = {
            "encoder": options,
            "noise": stage.noise_parts,
            "resolution": stage.resolutions[-1],
            "output": name_outputs(stage)[-1],
            "examples": list(examples),
            "modelSize": size,
            "runtime": _describe_runtime(runtime_files),
        }
        page = environment.get_template("index.html").render(
            title=title,
            generator=f"Stackflower {__version__}",
            config=Markup(_dump(config)),
            resolution=stage.resolutions[-1],
            megabytes=f"{size / 1e6:.1f}",
            **_build_policy(is_local=runtime is not None),
        )
        (temporary / "index.html").write_text(page, encoding="utf-8")


def describe_encoder(encoder: TextEncoder) -> dict[str, Any]:
    """Return the options of a text encoder and its tables as the page's JavaScript needs them.

    Raises:
        ConfigError: the encoder is not `ngram`, the only one that the page has.
    """
    if type(encoder) is not NgramEncoder:
        name = registry.find_name("text", type(encoder))
        raise ConfigError(
            f"The model was trained with the text encoder {name}, but a web page can only use ngram. Export the stage "
            "alone with `format=onnx`, or train a run with `text=ngram`."
        )
    characters = map(chr, range(sys.maxunicode + 1))
    return {
        "dim": encoder.dim,
        "window": encoder.window,
        "characters": encoder.characters,
        "functionWords": encoder.function_words,
        "functionWordList": sorted(FUNCTION_WORDS),
        # JavaScript has no case folding, so the page applies these exceptions to its lower case
        "folds": {each: each.casefold() for each in characters if each.casefold() != each.lower()},
    }


def find_runtime(folder: Path) -> list[Path]:
    """Return the files of ONNX Runtime Web that the page uses.

    Args:
        folder: npm's package onnxruntime-web, or its folder `dist`.

    Raises:
        ConfigError: a file is missing.
    """
    dist = folder / "dist" if (folder / "dist").is_dir() else folder
    missing = [name for name in INTEGRITY if not (dist / name).is_file()]
    if missing:
        raise ConfigError(
            f"{folder} lacks {', '.join(missing)}. Type `npm install onnxruntime-web@{RUNTIME_VERSION}`, and use "
            "`runtime=node_modules/onnxruntime-web/dist`."
        )
    return [dist / name for name in INTEGRITY]


def check_replaceable(folder: Path) -> None:
    """Check that a folder for an export does not exist, is empty, or holds an earlier export and nothing else.

    Raises:
        ConfigError: the folder or a file holds something else.
    """
    if not folder.exists():
        return
    expected = {"index.html", "model.onnx", RUNTIME_FOLDER, *STATIC_FILES}
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else {folder.name}
    names = {name for name in names if not name.startswith(UNFINISHED)}
    page = folder / "index.html"
    is_export = names <= expected and page.is_file() and MARK in page.read_text(encoding="utf-8", errors="replace")
    if names and not is_export:
        raise ConfigError(f"{folder} exists and holds something else than an exported page. Choose another `out`.")


def _describe_runtime(files: Sequence[Path]) -> dict[str, Any]:
    """Return where the page finds the runtime's files, their checksums, and the size of each binary.

    Args:
        files: copied files; empty if the page loads them from the CDN.
    """
    if not files:
        return {"base": CDN, "integrity": INTEGRITY, "sizes": CDN_SIZES}
    sizes = {file.name: file.stat().st_size for file in files if file.name in CDN_SIZES}
    return {"base": f"{RUNTIME_FOLDER}/", "integrity": {}, "sizes": sizes}


def _dump(values: Any) -> str:
    """Return JSON that may stand in a script element."""
    return json.dumps(values, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")


def _build_policy(is_local: bool) -> dict[str, str | Markup]:
    """Return the content security policy, and the import map, whose hash the policy contains.

    With the runtime from a CDN, the browser checks the script by the integrity of its element, the WebAssembly by that
    of its request, and the module of glue code, which the runtime imports, by the import map.
    """
    script, connect, import_map = "'self' 'wasm-unsafe-eval'", "'self'", ""
    if not is_local:
        modules = {CDN + name: checksum for name, checksum in INTEGRITY.items() if name.endswith(".mjs")}
        import_map = _dump({"integrity": modules})
        checksum = base64.b64encode(hashlib.sha256(import_map.encode()).digest()).decode()
        script, connect = f"{script} 'sha256-{checksum}' {CDN}", f"{connect} {CDN}"
    policy = (
        f"default-src 'none'; script-src {script}; connect-src {connect}; style-src 'self'; img-src 'self'; "
        "worker-src 'self'; base-uri 'none'; form-action 'none'"
    )
    return {"policy": policy, "import_map": Markup(import_map)}


@contextmanager
def _replacing_export(folder: Path) -> Iterator[Path]:
    """Replace the files of an export by those that the block writes, ``index.html`` last.

    If the block raises an exception, the folder stays as it was.

    Yields:
        A temporary folder inside `folder`.
    """
    is_new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    leftovers = list(folder.glob(f"{UNFINISHED}*"))  # of processes that were killed
    temporary = Path(tempfile.mkdtemp(prefix=UNFINISHED, dir=folder))
    try:
        yield temporary
        for path in (folder / RUNTIME_FOLDER, *leftovers):
            shutil.rmtree(path, ignore_errors=True)
        for path in sorted(temporary.iterdir(), key=lambda path: path.name == "index.html"):
            os.replace(path, folder / path.name)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        if is_new and not any(folder.iterdir()):
            folder.rmdir()

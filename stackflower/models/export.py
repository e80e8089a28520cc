"""Formats in which a model can be exported, and the parameters of each."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from stackflower.errors import ConfigError
from stackflower.models.onnx import export_onnx
from stackflower.models.web import export_web
from stackflower.stages.base import Stage
from stackflower.text.base import TextEncoder
from stackflower.text.checks import clean_captions

ExportFormat = Literal["model", "onnx", "web"]
# parameters of each format, in addition to `half`
PARAMETERS: dict[ExportFormat, tuple[str, ...]] = {
    "model": ("captions", "data_name", "license", "title"),
    "onnx": (),
    "web": ("captions", "runtime", "title"),
}
EXAMPLE_COUNT = 6
LONGEST_EXAMPLE = 80  # characters of a default example; longer ones do not fit the page


def choose_format(out: str | os.PathLike[str], name: str | None = None, **parameters: object) -> ExportFormat:
    """Choose the format of an export, and check that it has all given parameters.

    Args:
        out: file or folder to write.
        name: "model", "onnx" or "web". Default: "onnx" if `out` ends in ``.onnx``, otherwise "model".
        parameters: values of parameters that not all formats have; an empty value is not given.

    Raises:
        ConfigError: the format is unknown, or lacks a parameter.
    """
    chosen = name or ("onnx" if Path(out).suffix.lower() == ".onnx" else "model")
    if chosen not in PARAMETERS:
        raise ConfigError(f"`format={chosen}` is unknown; choose one of: {', '.join(PARAMETERS)}.")
    for parameter, value in parameters.items():
        if value and parameter not in PARAMETERS[chosen]:
            others = " or ".join(f"`format={other}`" for other in PARAMETERS if parameter in PARAMETERS[other])
            raise ConfigError(f"`{parameter}` does not apply to `format={chosen}`; it belongs to {others}.")
    return chosen


def export_network(
    stage: Stage,
    encoder: TextEncoder,
    out: str | os.PathLike[str],
    *,
    format: Literal["onnx", "web"],
    half: bool = False,
    captions: Sequence[str] | None = None,
    defaults: Sequence[str] = (),
    runtime: str | os.PathLike[str] | None = None,
    title: str | None = None,
) -> None:
    """Export a stage for use without Stackflower: as an ONNX file, or as a web page.

    Args:
        stage: trained stage.
        encoder: its text encoder.
        out: file or folder to write; an earlier export is replaced.
        format: format to write.
        half: store weights as float16.
        captions: example captions of a web page.
        defaults: captions to use without `captions`; the first short ones are taken.
        runtime: folder `dist` of npm's onnxruntime-web, for a web page. Default: the page loads it from a CDN.
        title: title of a web page. Default: the name of `out`.

    Raises:
        ConfigError: a caption or the text encoder can't be used, or `out` can't be written or holds something else.
        ComponentError: the generator can't be exported.
        MissingDependency: onnx or onnxscript is not installed.
    """
    if stage.uses_words:
        raise ConfigError(
            f"`format={format}`: the generator uses the words of captions, which only Stackflower encodes. Use "
            "`format=model`."
        )
    path = Path(out).expanduser()
    if format == "onnx":
        export_onnx(stage, encoder.dim, path, half=half)
        return
    if captions:
        examples = clean_captions(captions)
    else:
        examples = [caption for caption in defaults if len(caption) <= LONGEST_EXAMPLE][:EXAMPLE_COUNT]
    dist = None if runtime is None else Path(runtime).expanduser()
    export_web(stage, encoder, path, title=title or path.resolve().name, examples=examples, half=half, runtime=dist)

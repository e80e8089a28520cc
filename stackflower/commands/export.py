"""``stackflower export``: write a model as a folder to share, an ONNX file or a web page."""

from __future__ import annotations

from pathlib import Path

import click

from stackflower.commands.console import Command, show
from stackflower.commands.options import checkpoint_option, format_examples, json_option, model_options
from stackflower.commands.streams import decode_argument


@click.command(
    cls=Command,
    epilog=format_examples(
        "stackflower export runs/flowers my-flowers --half --license cc-by-4.0",
        "stackflower export runs/flowers flowers.onnx",
        "stackflower export flowers page --format web",
        "stackflower export flowers page --format web --runtime node_modules/onnxruntime-web/dist",
    ),
)
@click.argument("model")
@click.argument("out")
@click.option(
    "--format",
    type=click.Choice(["model", "onnx", "web"]),
    help="A folder to share, an ONNX file, or a folder with a web page.  [default: onnx if OUT ends in .onnx, else "
    "model]",
)
@model_options
@click.option(
    "--runtime",
    metavar="DIR",
    help="Folder dist of npm's onnxruntime-web, to be copied into the web page.  [default: the page loads it from "
    "jsDelivr]",
)
@click.option("--title", help="Title of the model card or the web page.  [default: the name of OUT]")
@checkpoint_option
@click.option("--revision", metavar="NAME", help="Branch, tag or commit of a model on the Hugging Face Hub.")
@json_option
def export(
    model: str,
    out: str,
    format: str | None,
    captions: tuple[str, ...],
    half: bool,
    data_name: str | None,
    license: str | None,
    runtime: str | None,
    title: str | None,
    checkpoint: str | None,
    revision: str | None,
    as_json: bool,
) -> None:
    """Write MODEL, a run or a model, to OUT: as a folder to share, an ONNX file or a web page."""
    from stackflower.models.export import choose_format, export_network
    from stackflower.pipeline import Pipeline

    texts = [decode_argument(caption) for caption in captions] or None
    given = {"captions": texts, "data_name": data_name, "license": license, "runtime": runtime, "title": title}
    chosen = choose_format(out, format, **given)
    pipeline = Pipeline.from_pretrained(model, "cpu", revision=revision, checkpoint=checkpoint)
    if chosen == "model":
        pipeline.save_pretrained(out, half=half, captions=texts, title=title, data=data_name, license=license)
    else:
        defaults = pipeline.record.captions if pipeline.record is not None else ()
        export_network(
            *(pipeline.stage, pipeline.encoder, out),
            format=chosen,
            half=half,
            captions=texts,
            defaults=defaults,
            runtime=runtime,
            title=title,
        )
    path = Path(out).expanduser()
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    size = sum(file.stat().st_size for file in files)
    show({"out": out, "format": chosen, "bytes": size}, as_json, lambda: f"{out}: {size / 1e6:.1f} MB")

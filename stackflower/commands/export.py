"""``stackflower export``: export a trained model as an ONNX file or a web page."""

from __future__ import annotations

from typing import Any

import click

from stackflower.commands.console import Command, show
from stackflower.commands.options import checkpoint_option, format_examples, json_option
from stackflower.commands.streams import decode_argument


@click.command(
    cls=Command,
    settings={"layout": "format"},
    epilog=format_examples(
        "stackflower export runs/quickstart-1 flowers.onnx",
        "stackflower export runs/quickstart-1 flowers.onnx --half",
        "stackflower export runs/quickstart-1 flowers --format web",
        "stackflower export runs/quickstart-1 flowers --format web --runtime node_modules/onnxruntime-web/dist",
    ),
)
@click.argument("run")
@click.argument("out")
@click.option(
    "--format",
    "layout",
    type=click.Choice(["onnx", "web"]),
    help="An ONNX file, or a folder with a web page.  [default: onnx if OUT ends in .onnx]",
)
@click.option("--half", is_flag=True, help="Store weights as float16, which halves the file.")
@click.option(
    "--runtime",
    metavar="DIR",
    help="Folder dist of npm's onnxruntime-web, which the web page then includes.  [default: load it from jsDelivr]",
)
@click.option(
    "--caption",
    "captions",
    metavar="TEXT",
    multiple=True,
    help="Example caption on the web page; may be repeated.  [default: captions of the run's data]",
)
@checkpoint_option
@json_option
def export(run: str, out: str, captions: tuple[str, ...], as_json: bool, **options: Any) -> None:
    """Export a trained model for use without Stackflower: as an ONNX file, or as a web page."""
    from stackflower.models.export import export_run

    written = export_run(run, out, captions=[decode_argument(caption) for caption in captions], **options)
    show(written, as_json, lambda: f"{written['out']}: {written['bytes'] / 1e6:.1f} MB")

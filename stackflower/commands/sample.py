"""``stackflower sample``: generate images for captions with a model."""

from __future__ import annotations

from typing import Any

import click

from stackflower.commands.console import Command, show
from stackflower.commands.options import (
    Finite,
    checkpoint_option,
    format_examples,
    json_option,
    seed_option,
    threads_option,
)
from stackflower.commands.streams import decode_argument


@click.command(
    cls=Command,
    settings={"interpolate": "steps"},
    epilog=format_examples(
        'stackflower sample flowers "a red flower with pointed petals" --per-caption 8 --grid',
        "stackflower sample runs/quickstart-1 --captions captions.txt --out generated --per-caption 4",
        'stackflower sample runs/quickstart-1 "a blue flower" --out blue.png --seed 3 --best-of 10',
        'stackflower sample runs/quickstart-1 "a red flower" "a blue flower" --interpolate 8 --per-caption 4',
    ),
)
@click.argument("model")
@click.argument("captions", nargs=-1)
@click.option("--captions", "file", metavar="FILE", help="Text file with one caption per line, or a metadata.jsonl.")
@click.option(
    "--per-caption", type=click.IntRange(1), default=1, show_default=True, help="Number of images per caption."
)
@seed_option
@click.option(
    "--out",
    metavar="DIR|FILE.png",
    help="Folder for the images, or file, whose suffix sets the format: .png, .jpg, .webp …  [default: RUN/generated, "
    "or generated for a model that is not a run]",
)
@click.option("--grid", is_flag=True, help="Save one image grid with a row per caption.")
@click.option(
    "--truncation", type=Finite(0, min_open=True), help="Truncate the noise at this many standard deviations."
)
@click.option(
    "--best-of",
    type=click.IntRange(1, 256),
    default=1,
    metavar="K",
    help="Generate K candidates and keep the one that the discriminator scores highest.",
)
@checkpoint_option
@click.option("--revision", metavar="NAME", help="Branch, tag or commit of a model on the Hugging Face Hub.")
@click.option("--sharpen", type=Finite(0), default=1.0, metavar="F", help="Sharpen by a factor; 1 changes nothing.")
@click.option(
    "--interpolate",
    type=click.IntRange(2),
    metavar="STEPS",
    help="Save one grid whose rows interpolate in STEPS images between the captions or, for a single caption, between "
    "two noises. --per-caption sets the number of rows.",
)
@click.option("--side-by-side", is_flag=True, help="Join all resolutions of the run in one image.")
@click.option("--batch-size", type=click.IntRange(1), default=64, show_default=True, help="Number of images at a time.")
@threads_option
@json_option
def sample(model: str, captions: tuple[str, ...], as_json: bool, **options: Any) -> None:
    """Generate images for captions with a MODEL.

    MODEL is the folder of a run or of a shared model, the name of a shipped model (`stackflower ls models` lists them),
    or an id on the Hugging Face Hub, such as owner/flowers.
    """
    from stackflower.reports.generated import SampleRequest, write_samples

    written = write_samples(SampleRequest(model, [decode_argument(caption) for caption in captions], **options))
    if written is not None:
        show(written.to_dict() if as_json else {}, as_json, written.summarise)

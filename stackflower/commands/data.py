"""``stackflower data``: make, check, prepare, shard and count data sets."""

from __future__ import annotations

import click

from stackflower.commands.console import Command, LazyGroup, show, spell
from stackflower.commands.options import (
    format_examples,
    format_option,
    json_option,
    layout_options,
    parse_part_options,
    seed_option,
    settings_option,
)

data = LazyGroup(
    "data",
    help="Make, check and prepare data sets.",
    commands={
        "make": "stackflower.commands.data:make",
        "check": "stackflower.commands.data:check",
        "prepare": "stackflower.commands.prepare:prepare",
        "shard": "stackflower.commands.shard:shard",
        "info": "stackflower.commands.data:info",
    },
)


SOURCE = {"source": "data", "layout": "data.name"}  # the library's names of SOURCE and --format


def parse_data_options(settings: tuple[str, ...]) -> dict[str, object]:
    """Read the options of the data set from the values of ``--set``."""
    return parse_part_options(settings, ("data",), "data.seed=1")["data"]


@click.command(
    cls=Command,
    epilog=format_examples("stackflower data make synthetic-flowers --out flowers --count 1000 --resolution 128"),
)
@click.argument("name")
@click.option("--out", metavar="DIR", required=True, help="New folder for the images.")
@click.option("--count", type=click.IntRange(1), default=8000, show_default=True, help="Number of training images.")
@click.option("--validation", type=click.IntRange(1), default=1000, show_default=True, help="Validation images.")
@click.option("--test", type=click.IntRange(1), default=1000, show_default=True, help="Test images.")
@click.option("--resolution", type=click.IntRange(64, 256), default=76, show_default=True, help="Size in pixels.")
@seed_option
@json_option
def make(name: str, out: str, as_json: bool, **numbers: int) -> None:
    """Write a built-in data set as image folders: images and metadata.jsonl in a folder per split."""
    from stackflower.data.synthetic.image_folder import write_image_folder

    summary = write_image_folder(name, out, **numbers)
    show({"out": out, **numbers, "summary": summary}, as_json, lambda: summary)


@click.command(
    cls=Command,
    settings=SOURCE,
    epilog=format_examples(
        "stackflower data check my-flowers",
        "stackflower data check my-tags --text multi-hot --set data.separator=,",
    ),
)
@click.argument("source")
@click.option(
    "--text",
    default="ngram",
    show_default=True,
    metavar="NAME|MODEL",
    help="Text encoder that the captions are checked for, as in train.",
)
@format_option
@settings_option("An option of the layout or the text encoder.")
@json_option
def check(source: str, text: str, layout: str | None, settings: tuple[str, ...], as_json: bool) -> None:
    """Open every image of a data set and list all problems. The exit code is 2 if there are any.

    Captions are checked too: what the text encoder drops, and captions that it can't tell apart.
    """
    from functools import partial

    from stackflower.data.inspection import check_data
    from stackflower.runs.trained_text import find_text_encoder
    from stackflower.text.checks import check_source_captions

    options = parse_part_options(settings, ("data", "text"), "data.seed=1")
    encoder = {**(find_text_encoder(text) or {}), **options["text"]}
    report = check_data(source, options["data"], layout, partial(check_source_captions, text=encoder))
    problems = report["problems"]
    count = f"{len(problems):,} problem{'s' if len(problems) > 1 else ''}."
    end = count if problems else "No problems found; the data set can be used for training."
    show(report, as_json, lambda: spell("\n".join([*problems, *report["notes"], end])))
    if problems:
        raise SystemExit(2)


@click.command(cls=Command, settings=SOURCE, epilog=format_examples("stackflower data info my-flowers"))
@click.argument("source")
@layout_options
@json_option
def info(source: str, layout: str | None, settings: tuple[str, ...], as_json: bool) -> None:
    """Count a data set's images, captions, classes and words."""
    from stackflower.data.inspection import count_data

    values = count_data(source, parse_data_options(settings), layout)
    show(values, as_json, lambda: "\n".join(f"{split}: {counts}" for split, counts in values.items()))

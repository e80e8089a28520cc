"""``stackflower data shard``: write a data set as WebDataset shards."""

from __future__ import annotations

from typing import Any

import click

from stackflower.commands.console import Command, show
from stackflower.commands.data import SOURCE, parse_data_options
from stackflower.commands.options import RESUMES, format_examples, json_option, layout_options, on_error_option


@click.command(
    cls=Command,
    settings=SOURCE,
    when_interrupted=RESUMES,
    epilog=format_examples(
        "stackflower data shard my-flowers shards",
        "stackflower data shard synthetic-flowers shards --size 76 --set data.count=100000",
    ),
)
@click.argument("source")
@click.argument("out")
@click.option(
    "--per-shard", type=click.IntRange(1), default=1000, show_default=True, help="Number of images per shard."
)
@click.option("--size", type=click.IntRange(16), help="Size in pixels.  [default: copy the image files unchanged]")
@layout_options
@on_error_option
@json_option
def shard(source: str, out: str, settings: tuple[str, ...], as_json: bool, **options: Any) -> None:
    """Write a data set as WebDataset shards to the folder OUT, for streaming.

    If the command is interrupted, rerun it: it resumes where it stopped.
    """
    from stackflower.data.sharding import shard_data

    summary = shard_data(source, out, options=parse_data_options(settings), **options)
    stream = f'Stream them: stackflower train --stage 1 --data "{summary["pattern"]}"'
    prepare = f"Prepare them: stackflower train --stage 1 --data {out}"
    text = "\n".join([summary["text"], stream, prepare])
    show({"data": source, "out": out, **summary}, as_json, lambda: text)

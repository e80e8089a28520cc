"""``stackflower data prepare``: decode a data set once."""

from __future__ import annotations

from typing import Any

import click

from stackflower.commands.console import Command, show, spell
from stackflower.commands.data import SOURCE, parse_data_options
from stackflower.commands.options import RESUMES, format_examples, json_option, layout_options, on_error_option


@click.command(
    cls=Command,
    settings=SOURCE,
    when_interrupted=RESUMES,
    epilog=format_examples(
        "stackflower data prepare my-flowers --size 76",
        "stackflower data prepare my-flowers.zip prepared --on-error skip",
    ),
)
@click.argument("source")
@click.argument("out", required=False)
@click.option("--size", type=click.IntRange(16), default=76, show_default=True, help="Size in pixels.")
@layout_options
@on_error_option
@click.option(
    "--jobs",
    "--threads",
    "jobs",
    type=click.IntRange(1),
    help="Number of images decoded at a time.  [default: one per core]",
)
@json_option
def prepare(source: str, out: str | None, settings: tuple[str, ...], as_json: bool, **options: Any) -> None:
    """Decode a data set in advance, so that training starts immediately.

    The result is written to the folder OUT, with a summary page, or to the cache. If the command is interrupted, rerun
    it: it resumes where it stopped.
    """
    from stackflower.reports.prepared_folder import prepare_data

    summary = prepare_data(source, out, options=parse_data_options(settings), **options)
    text = (
        summary["text"] if out is None else f"{summary['text']}\nTrain on it: stackflower train --stage 1 --data {out}"
    )
    show({"data": source, "out": out, "size": options["size"], **summary}, as_json, lambda: spell(text))
